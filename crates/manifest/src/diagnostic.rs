//! What is wrong with a text, and where: one line for logs, a few lines with a caret for people.

use std::fmt;
use std::sync::Arc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Accepted, but deserves a word.
    Warning,
    /// The text is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing to say about a text.
///
/// Displays as `file:line:column: error[code]: message: suggestion`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name of the kind of mistake, in kebab-case.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file, or another name of the text.
    pub source: Arc<str>,
    /// The line, from one; zero when it is about the text as a whole.
    pub line: u32,
    /// The column in characters, from one; zero when it is about the text as a whole.
    pub column: u32,
    /// What to do about it.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// An error about the text as a whole.
    pub fn error(source: Arc<str>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            source,
            line: 0,
            column: 0,
            suggestion: None,
        }
    }

    /// A warning about the text as a whole.
    pub fn warning(source: Arc<str>, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(source, code, message) }
    }

    /// The same, about a position. Counts beyond 32 bits stay at the end of the range.
    #[must_use]
    pub fn at(mut self, line: u64, column: u64) -> Self {
        self.line = u32::try_from(line).unwrap_or(u32::MAX);
        self.column = u32::try_from(column).unwrap_or(u32::MAX);
        self
    }

    /// The same, with a way out.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// The diagnostic with the line of `text` that it is about and a caret under the place.
    #[must_use]
    pub fn render(&self, text: &str) -> String {
        let mut out = format!("{}[{}]: {}\n", self.severity, self.code, self.message);
        let written = self.line.checked_sub(1).and_then(|index| text.lines().nth(index as usize));
        if self.line == 0 {
            out.push_str(&format!("  --> {}\n", self.source));
        } else {
            out.push_str(&format!("  --> {}:{}:{}\n", self.source, self.line, self.column));
        }
        if let Some(written) = written {
            let (shown, before, width) = excerpt(written, self.column);
            let gutter = self.line.to_string();
            let margin = " ".repeat(gutter.len());
            out.push_str(&format!(" {margin} |\n {gutter} | {shown}\n"));
            out.push_str(&format!(" {margin} | {}{}\n", " ".repeat(before), "^".repeat(width)));
        }
        if let Some(suggestion) = &self.suggestion {
            out.push_str(&format!("  = help: {suggestion}\n"));
        }
        out
    }
}

/// At most this many characters of a line are shown.
const EXCERPT: usize = 120;

/// The part of a line around a column, what stands before the column in it, and the width of the word there.
/// Tabs become one space and other control characters a dot, so that the caret stays under its place.
fn excerpt(line: &str, column: u32) -> (String, usize, usize) {
    let chars: Vec<char> = line
        .chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '.',
            c => c,
        })
        .collect();
    let place = (column.max(1) as usize - 1).min(chars.len());
    let start = if place < EXCERPT { 0 } else { place - EXCERPT / 2 };
    let end = chars.len().min(start + EXCERPT);
    let ends_word = |c: &char| c.is_whitespace() || matches!(c, ':' | ',' | '}' | ']');
    let width = chars[place..end].iter().take_while(|c| !ends_word(c)).count().max(1);
    (chars[start..end].iter().collect(), place - start, width)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}[{}]: {}", self.severity, self.code, self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, ": {suggestion}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown() -> Diagnostic {
        Diagnostic::error(Arc::from("p.yaml"), "unknown-field", "unknown field `types`")
            .at(2, 3)
            .suggest("did you mean `policyTypes`?")
    }

    #[test]
    fn one_line_for_logs() {
        assert_eq!(
            unknown().to_string(),
            "p.yaml:2:3: error[unknown-field]: unknown field `types`: did you mean `policyTypes`?"
        );
        let whole = Diagnostic::warning(Arc::from("p.yaml"), "x", "y");
        assert_eq!(whole.to_string(), "p.yaml: warning[x]: y");
    }

    #[test]
    fn a_caret_for_people() {
        assert_eq!(
            unknown().render("spec:\n  types: [Ingress]\n"),
            "error[unknown-field]: unknown field `types`\n  --> p.yaml:2:3\n   |\n 2 |   types: [Ingress]\n   |   \
             ^^^^^\n  = help: did you mean `policyTypes`?\n"
        );
    }

    #[test]
    fn any_position_of_any_text_renders() {
        for text in ["", "\t\u{7}x", "ü", &"long ".repeat(1000)] {
            for (line, column) in [(0, 0), (1, 0), (1, 1), (1, 4000), (9, 9), (u64::MAX, u64::MAX)] {
                assert!(unknown().at(line, column).render(text).starts_with("error[unknown-field]"));
            }
        }
        let rendered = unknown().at(1, 4001).render(&"long ".repeat(1000));
        assert!(rendered.lines().all(|line| line.chars().count() < 140), "{rendered}");
    }
}
