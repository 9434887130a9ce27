//! YAML that an operator wrote, and what is wrong with it in words that name the line.
//!
//! An error shows nothing of the file: the lines around a mistake may hold a key in plain text.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, MessageFormatter as _, NonFiniteFloatPolicy, UserMessageFormatter};

/// What is wrong with a document. The operator must correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {words}")]
pub struct YamlError {
    /// From 1; 0 when it is not one line's fault.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// What is wrong there.
    pub words: String,
}

/// Reads a document.
///
/// # Errors
/// It is not YAML, or not of the expected shape.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    // A label may look like a number beyond all numbers.
    let options = serde_saphyr::options! { non_finite_float_policy: NonFiniteFloatPolicy::PassThrough };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
        YamlError { line, column, words: words(error.without_snippet()) }
    })
}

fn words(error: &Error) -> String {
    match error {
        Error::Unexpected { expected: "mapping start", .. } => "keys with values belong here".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => "a list belongs here".to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => "a single text belongs here".to_owned(),
        Error::InvalidScalar { ty: "boolean", .. } => "true or false belongs here".to_owned(),
        Error::DuplicateMappingKey { key, .. } => {
            format!("{} stands twice", key.as_deref().unwrap_or("a key"))
        }
        Error::SerdeMissingField { field, .. } => format!("{field} is missing"),
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("{field} is not known; known are {}", expected.join(", "))
        }
        other => UserMessageFormatter.format_message(other).replace(char::is_control, " "),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "what is read is not the point")]
    struct Shape {
        name: String,
        #[serde(default)]
        keys: BTreeMap<String, String>,
        #[serde(default)]
        list: Vec<u8>,
        #[serde(default)]
        switch: bool,
    }

    /// Goal: a mistake is named with its line and what belongs there, and nothing of the file is repeated.
    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, expected) in [
            ("name: [secret]", "line 1, column 7: a single text belongs here"),
            ("name: a\nkeys: secret", "line 2, column 7: keys with values belong here"),
            ("name: a\nlist: 5", "line 2, column 7: a list belongs here"),
            ("name: a\nswitch: secret", "line 2, column 9: true or false belongs here"),
            ("name: a\nname: secret", "line 2, column 1: name stands twice"),
            ("keys: {}", "line 1, column 1: name is missing"),
            ("name: a\nother: 1", "line 2, column 1: other is not known; known are name, keys, list, switch"),
            ("name: a\nkeys: { a: secret", "line 2, column 7: unclosed bracket '{'"),
        ] {
            let error = read::<Shape>(text).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }
}
