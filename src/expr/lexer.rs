//! Text to tokens.

use super::ParseError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Int(u64),
    Double(f64),
    Text(String),
    Name(String),
    /// An operator or a bracket.
    Mark(&'static str),
    End,
}

/// Longer marks first, so that `<=` is not read as `<`.
const MARKS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")", "[", "]", "{", "}",
    ",", ".",
];

/// What people write who know another language, and what it is called here.
const STRANGERS: &[(&str, &str)] = &[("=", "=="), ("&", "&&"), ("|", "||")];

/// All tokens with the byte where each starts; the last one is `End`.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, ParseError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut all = Vec::new();
    loop {
        lexer.space();
        let at = lexer.at;
        let operand = matches!(
            all.last(),
            Some((
                Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Double(_) | Token::Mark(")" | "]" | "}"),
                _
            ))
        );
        let token = lexer.token(operand)?;
        let end = token == Token::End;
        all.push((token, at));
        if end {
            return Ok(all);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong<T>(&self, at: usize, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, at, what))
    }

    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\x0c']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// `operand`: whether the token before can be followed by a field, so that a dot is not the start of `.5`.
    fn token(&mut self, operand: bool) -> Result<Token, ParseError> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let Some(&first) = bytes.first() else { return Ok(Token::End) };
        let second = bytes.get(1).copied().unwrap_or_default();
        match first {
            b'"' | b'\'' => self.string(false),
            b'r' | b'R' if matches!(second, b'"' | b'\'') => {
                self.at += 1;
                self.string(true)
            }
            b'b' | b'B' if matches!(second, b'"' | b'\'') => self.wrong(self.at, "bytes are not known here"),
            b'0'..=b'9' => self.number(),
            b'.' if second.is_ascii_digit() && !operand => self.number(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.at += length;
                Ok(Token::Name(rest[..length].to_owned()))
            }
            _ => self.mark(),
        }
    }

    fn mark(&mut self) -> Result<Token, ParseError> {
        let rest = self.rest();
        if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            self.at += mark.len();
            return Ok(Token::Mark(mark));
        }
        match STRANGERS.iter().find(|(stranger, _)| rest.starts_with(stranger)) {
            Some((stranger, ours)) => self.wrong(self.at, format!("`{stranger}` is written `{ours}`")),
            None => {
                let c = rest.chars().next().unwrap_or_default();
                self.wrong(self.at, format!("`{}` is not known here", c.escape_debug()))
            }
        }
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let (start, rest) = (self.at, self.rest());
        let bytes = rest.as_bytes();
        let digits = |from: usize| from + bytes[from..].iter().take_while(|c| c.is_ascii_digit()).count();
        let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
        let (token, mut end) = if let Some(hex) = hex {
            let length = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            (u64::from_str_radix(&hex[..length], 16).ok().map(Token::Int), 2 + length)
        } else {
            let mut end = digits(0);
            let mut whole = true;
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                (end, whole) = (digits(end + 1), false);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                let exponent = digits(end + 1 + sign);
                if exponent == end + 1 + sign {
                    return self.wrong(start + exponent, "expected a digit of the exponent");
                }
                (end, whole) = (exponent, false);
            }
            let token = if whole {
                rest[..end].parse().ok().map(Token::Int)
            } else {
                rest[..end].parse().ok().filter(|d: &f64| d.is_finite()).map(Token::Double)
            };
            (token, end)
        };
        let Some(token) = token else { return self.wrong(start, "the number is out of range") };
        if matches!(token, Token::Int(_)) && matches!(bytes.get(end), Some(b'u' | b'U')) {
            end += 1;
        }
        self.at += end;
        if self.rest().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            return self.wrong(self.at, "expected the end of the number");
        }
        Ok(token)
    }

    /// A string, its opening quote next.
    fn string(&mut self, raw: bool) -> Result<Token, ParseError> {
        let (start, rest) = (self.at, self.rest());
        let quote = [r#"""""#, "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote)).unwrap_or("\"");
        self.at += quote.len();
        let mut out = String::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(quote) {
                self.at += quote.len();
                return Ok(Token::Text(out));
            }
            match rest.chars().next() {
                None => return self.wrong(start, format!("the text is not closed, expected `{quote}`")),
                Some('\n' | '\r') if quote.len() == 1 => {
                    return self.wrong(start, format!("the text is not closed on its line, expected `{quote}`"));
                }
                Some('\\') if !raw => out.push(self.escape()?),
                Some(c) => {
                    out.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let (start, rest) = (self.at, self.rest());
        let bad = "expected an escape that CEL knows; a backslash is written `\\\\`";
        let Some(code) = rest[1..].chars().next() else { return self.wrong(start, bad) };
        let plain = match code {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\\' | '"' | '\'' | '`' | '?' => code,
            _ => {
                let (skip, length, radix) = match code {
                    'x' | 'X' => (2, 2, 16),
                    'u' => (2, 4, 16),
                    'U' => (2, 8, 16),
                    '0'..='3' => (1, 3, 8),
                    _ => return self.wrong(start, bad),
                };
                let digits = rest.get(skip..skip + length).filter(|d| d.chars().all(|c| c.is_digit(radix)));
                let c = digits.and_then(|d| u32::from_str_radix(d, radix).ok()).and_then(char::from_u32);
                self.at += skip + length;
                return match c {
                    Some(c) => Ok(c),
                    None => self.wrong(start, format!("expected {length} digits of a character after the backslash")),
                };
            }
        };
        self.at += 2;
        Ok(plain)
    }
}
