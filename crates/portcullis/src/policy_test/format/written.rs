//! What may be written in more than one form, read.

use std::fmt;

use manifest::Embedded;
use serde::Deserializer;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, MapAccess, SeqAccess, Visitor};

use super::{Family, Manifest, Party, PodSelector, Ports};

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Embedded::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Party {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Party;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`namespace/pod`, an address, a selector of pods, or a list of these")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Party, E> {
                Ok(Party::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Party, A::Error> {
                let mut parties = Vec::new();
                while let Some(party) = items.next_element()? {
                    parties.push(party);
                }
                Ok(Party::Several(parties))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Party, A::Error> {
                PodSelector::deserialize(MapAccessDeserializer::new(entries)).map(Party::Pods)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as `80/TCP`, or a list of ports")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ports, E> {
                Ok(Ports(vec![number.to_string()]))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Ports, E> {
                Ok(Ports(vec![number.to_string()]))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                Ok(Ports(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Ports, A::Error> {
                let mut ports = Vec::new();
                while let Some(Ports(written)) = items.next_element()? {
                    ports.extend(written);
                }
                Ok(Ports(ports))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl<'de> Deserialize<'de> for Family {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Family;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`4`, `6` or `both`")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Family, E> {
                match number {
                    4 => Ok(Family::V4),
                    6 => Ok(Family::V6),
                    other => Err(E::invalid_value(de::Unexpected::Unsigned(other), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Family, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Family, E> {
                match text {
                    "both" => Ok(Family::Both),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Written)
    }
}
