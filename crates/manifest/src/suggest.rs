//! What somebody probably meant.

/// The word of `known` that `word` is a misspelling of, if one is close: the same but for case, or few
/// letters away for its length.
pub fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete or replace to get from one word to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replace = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// Where a field that really exists belongs, when it is met elsewhere, or what a foreign field stands for.
pub(crate) fn home(field: &str) -> Option<&'static str> {
    Some(match field {
        "types" => "did you mean `policyTypes`?",
        "selector" | "endpointSelector" => "did you mean `podSelector`?",
        "from" => "`from` belongs in a rule of `ingress`; rules of `egress` take `to`",
        "to" => "`to` belongs in a rule of `egress`; rules of `ingress` take `from`",
        "ports" => "`ports` belongs in a rule, beside `from` or `to`",
        "cidr" | "except" => "it belongs inside `ipBlock`",
        "podSelector" => "it belongs under `spec`, or in an item of `from` or `to`",
        "namespaceSelector" | "ipBlock" => "it belongs in an item of `from` or `to`",
        "matchLabels" | "matchExpressions" => "it belongs inside `podSelector` or `namespaceSelector`",
        "ingress" | "egress" | "policyTypes" => "it belongs directly under `spec`",
        "name" | "namespace" | "labels" | "annotations" => "it belongs under `metadata`",
        "port" | "endPort" | "protocol" => "it belongs in an item of `ports`",
        "action" | "deny" | "order" | "priority" => {
            "a NetworkPolicy has only rules that allow, and they have no order"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_are_found_and_strangers_are_not() {
        let spec = ["podSelector", "policyTypes", "ingress", "egress"];
        assert_eq!(closest("egres", &spec), Some("egress"));
        assert_eq!(closest("ingres", &spec), Some("ingress"));
        assert_eq!(closest("PodSelector", &spec), Some("podSelector"));
        assert_eq!(closest("policyType", &spec), Some("policyTypes"));
        assert_eq!(closest("action", &spec), None);
        assert_eq!(closest("matchLables", &["matchLabels", "matchExpressions"]), Some("matchLabels"));
        assert_eq!(closest("a", &["to"]), None);
        assert_eq!(closest(&"x".repeat(100_000), &spec), None);
    }
}
