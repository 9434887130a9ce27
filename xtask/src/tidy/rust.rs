//! Rust text parted into code and comments; what stands in strings is in neither.
//!
//! A reader for checks, not a compiler: it knows comments, strings, characters and lifetimes, and nothing of macros.

/// Code and comments of one file, each with the line breaks of the whole.
#[derive(Debug, Default)]
pub(super) struct Parted {
    /// Everything but comments and the insides of strings and characters.
    pub(super) code: String,
    /// The comments, documentation included.
    pub(super) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Code,
    Comment,
    Literal,
}

impl Parted {
    /// Parts one file's text. Text that is not Rust is parted somehow; nothing is refused.
    pub(super) fn new(text: &str) -> Self {
        let mut parted = Self::default();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (class, length) = piece(rest, first);
            let (piece, after) = rest.split_at(length);
            parted.push(class, piece);
            rest = after;
        }
        parted
    }

    fn push(&mut self, class: Class, piece: &str) {
        for char in piece.chars() {
            let blank = if char == '\n' { '\n' } else { ' ' };
            self.code.push(if class == Class::Code { char } else { blank });
            self.comments.push(if class == Class::Comment { char } else { blank });
        }
    }
}

/// The class and length in bytes of what `rest`, which begins with `first`, begins with.
fn piece(rest: &str, first: char) -> (Class, usize) {
    match first {
        '/' if rest.starts_with("//") => (Class::Comment, rest.find('\n').unwrap_or(rest.len())),
        '/' if rest.starts_with("/*") => (Class::Comment, block_comment(rest)),
        '"' => (Class::Literal, quoted(rest, '"')),
        '\'' if is_character(rest) => (Class::Literal, quoted(rest, '\'')),
        _ if is_word(first) => {
            let word = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
            match raw_string(&rest[word..]) {
                Some(string) if matches!(&rest[..word], "r" | "br" | "cr") => (Class::Literal, word + string),
                _ => (Class::Code, word),
            }
        }
        _ => (Class::Code, first.len_utf8()),
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let here = &rest[at..];
        let Some(char) = here.chars().next() else { return rest.len() };
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += char.len_utf8();
        }
        if depth == 0 {
            return at;
        }
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if char == '\\' {
            escaped = true;
        } else if char == quote {
            return at + char.len_utf8();
        }
    }
    rest.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    chars.next() == Some('\\') || chars.next() == Some('\'')
}

fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.bytes().take_while(|&byte| byte == b'#').count();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &rest[..hashes]);
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(hashes + 1 + length)
}

/// The words of a text with the number of their line, from 1.
pub(super) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().zip(1..);
    lines.flat_map(|(line, number)| line.split(|char| !is_word(char)).map(move |word| (number, word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a word in a string or a comment is never taken for code, and code never for either.
    #[test]
    fn code_comments_and_strings_are_told_apart() {
        for (text, code, comments) in [
            ("let zone = 1; // zone", "let zone = 1;", "// zone"),
            ("/* a /* b */ c */ d", "d", "/* a /* b */ c */"),
            (r#"f("// no", b"zone \" zone") + x"#, "f(      , b          ) + x", ""),
            (r##"f(r#"a " zone"#, r"\", y)"##, "f( , , y)", ""),
            (r"f('\'', '/', b'\n', 'é') // '", "f(    ,   , b   ,   )", "// '"),
            ("fn f<'a>(r: &'a str) {}", "fn f<'a>(r: &'a str) {}", ""),
            ("let r#zone = 1;", "let r#zone = 1;", ""),
            ("/// it's `zone`\nfn f() {}", "fn f() {}", "/// it's `zone`"),
            ("unclosed \"zone", "unclosed", ""),
        ] {
            let parted = Parted::new(text);
            let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(
                (squeeze(&parted.code), squeeze(&parted.comments)),
                (squeeze(code), squeeze(comments))
            );
        }
    }

    /// Goal: a word keeps the number of its line across strings and comments of several lines.
    #[test]
    fn line_numbers_survive_parting() {
        let parted = Parted::new("a /* 1\n2 */ b\n\"x\ny\" c");
        let words: Vec<_> = words(&parted.code).filter(|(_, word)| !word.is_empty()).collect();
        assert_eq!(words, [(1, "a"), (2, "b"), (4, "c")]);
    }
}
