//! The spellings that the API server admits for names, labels and ports (apimachinery `util/validation`).

/// A lowercase RFC 1123 subdomain: what objects are called.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_subdomain)
}

/// A lowercase RFC 1123 label: what namespaces are called. At most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_subdomain(text)
}

fn is_label_of_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A qualified name: what label keys are called. `[prefix/]name`.
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// What label values look like: empty, or like the name of a key.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

fn is_qualified(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Why a text is no port name (IsValidPortName), if it is none.
pub(crate) fn port_name_fault(text: &str) -> Option<&'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.len() > 15 {
        Some("must be no more than 15 characters")
    } else if !text.bytes().all(inner) {
        Some("must contain only a-z, 0-9 and '-'")
    } else if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else if text.contains("--") {
        Some("must not contain consecutive hyphens")
    } else if text.starts_with('-') || text.ends_with('-') {
        Some("must not begin or end with a hyphen")
    } else {
        None
    }
}

/// A hint for texts that a word processor has been at.
pub(crate) fn typographic(text: &str) -> bool {
    text.contains(['“', '”', '„', '‘', '’', '«', '»'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_subdomain("allow.web-1") && is_dns_label("kube-system"));
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", &"a".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
        assert!(!is_dns_label("a.b") && !is_dns_label(&"a".repeat(64)));
    }

    #[test]
    fn labels() {
        for good in ["app", "kubernetes.io/metadata.name", "a_b.C-1", &"a".repeat(63)] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.io/", "x y", "“color”", "color**", "-a", &"a".repeat(64)]
        {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_x"));
        assert!(!is_label_value("a,b") && !is_label_value("a/b") && !is_label_value(&"a".repeat(64)));
    }

    #[test]
    fn port_names() {
        for good in ["http", "a", "8080-web", "x-1"] {
            assert_eq!(port_name_fault(good), None, "{good}");
        }
        for bad in ["", "80", "80-90", "HTTP", "a--b", "-a", "a-", "serve-http-alternate"] {
            assert!(port_name_fault(bad).is_some(), "{bad}");
        }
    }
}
