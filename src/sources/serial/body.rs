//! A frame as an event's body.

use super::framing::Framing;
use crate::event::json::{Kind, check, write_string};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the bytes of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Text in UTF-8, which becomes a text.
    Text,
    /// Text in Latin-1, which becomes a text.
    Latin1,
    /// Anything; the field has it in base64.
    Base64,
    /// Anything; the field has it in hexadecimal digits.
    Hex,
    /// A JSON object, which is the body as it is.
    Json,
}

/// How a frame becomes a body.
#[derive(Clone, Debug)]
pub enum Shape {
    /// It is one.
    Object,
    /// It stands in a field.
    Field(String, Encoding),
    /// It is taken apart: `$GPGGA,1,2` is `{"talker":"GP","sentence":"GGA","fields":["1","2"]}`.
    Nmea,
}

impl Shape {
    /// Of a framing, with what the configuration says; the error names the field that does not go with it.
    pub fn new(framing: &Framing, field: Option<String>, encoding: Option<Encoding>) -> Result<Shape, &'static str> {
        let (name, usual) = match framing {
            Framing::Json | Framing::Nmea if encoding.is_some() => return Err("encoding"),
            Framing::Json | Framing::Nmea if field.is_some() => return Err("field"),
            Framing::Json => return Ok(Shape::Object),
            Framing::Nmea => return Ok(Shape::Nmea),
            Framing::Lines => ("line", Encoding::Text),
            _ => ("data", Encoding::Base64),
        };
        match encoding.unwrap_or(usual) {
            Encoding::Json if field.is_some() => Err("field"),
            Encoding::Json => Ok(Shape::Object),
            encoding => Ok(Shape::Field(field.unwrap_or_else(|| name.to_owned()), encoding)),
        }
    }

    /// Writes the body of a frame; `false` if it cannot be one.
    pub fn write(&self, frame: &[u8], body: &mut Vec<u8>) -> bool {
        body.clear();
        match self {
            Shape::Object => {
                body.extend_from_slice(frame);
                check(frame) == Ok(Kind::Object)
            }
            Shape::Nmea => std::str::from_utf8(frame).is_ok_and(|sentence| nmea(sentence, body)),
            Shape::Field(name, encoding) => {
                body.push(b'{');
                write_string(name, body);
                body.push(b':');
                match encoding {
                    Encoding::Text | Encoding::Json => match std::str::from_utf8(frame) {
                        Ok(text) => write_string(text, body),
                        Err(_) => return false,
                    },
                    Encoding::Latin1 => write_string(&frame.iter().copied().map(char::from).collect::<String>(), body),
                    Encoding::Base64 => write_string(&STANDARD.encode(frame), body),
                    Encoding::Hex => {
                        let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
                        body.push(b'"');
                        body.extend(frame.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
                        body.push(b'"');
                    }
                }
                body.push(b'}');
                true
            }
        }
    }
}

/// A sentence without its checksum. The talker of a proprietary one is `P` (NMEA 0183, 5.3.1.3).
fn nmea(sentence: &str, body: &mut Vec<u8>) -> bool {
    let mut fields = sentence.get(1..).unwrap_or_default().split(',');
    let address = fields.next().unwrap_or_default();
    let Some((talker, sentence)) = address.split_at_checked(if address.starts_with('P') { 1 } else { 2 }) else {
        return false;
    };
    if sentence.is_empty() || !address.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return false;
    }
    body.extend_from_slice(b"{\"talker\":");
    write_string(talker, body);
    body.extend_from_slice(b",\"sentence\":");
    write_string(sentence, body);
    body.extend_from_slice(b",\"fields\":[");
    for (place, field) in fields.enumerate() {
        if place > 0 {
            body.push(b',');
        }
        write_string(field, body);
    }
    body.extend_from_slice(b"]}");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_becomes_a_body() {
        use Encoding::*;
        let field = |name: &str, encoding| Shape::Field(name.into(), encoding);
        for (shape, frame, want) in [
            (Shape::Object, &b"{\"a\":1}"[..], Some("{\"a\":1}")),
            (Shape::Object, b"[1]", None),
            (field("line", Text), "21,5 \u{b0}C \"x\"".as_bytes(), Some("{\"line\":\"21,5 \u{b0}C \\\"x\\\"\"}")),
            (field("line", Text), b"21,5 \xb0C", None),
            (field("line", Latin1), b"21,5 \xb0C", Some("{\"line\":\"21,5 \u{b0}C\"}")),
            (field("data", Base64), b"\x00\xff", Some("{\"data\":\"AP8=\"}")),
            (field("raw", Hex), b"\x00\xfe", Some("{\"raw\":\"00fe\"}")),
            (
                Shape::Nmea,
                b"$GPGLL,49.5,N,,",
                Some("{\"talker\":\"GP\",\"sentence\":\"GLL\",\"fields\":[\"49.5\",\"N\",\"\",\"\"]}"),
            ),
            (Shape::Nmea, b"$PGRME,1", Some("{\"talker\":\"P\",\"sentence\":\"GRME\",\"fields\":[\"1\"]}")),
            (Shape::Nmea, b"$GP", None),
            (Shape::Nmea, b"$G-GGA", None),
        ] {
            let mut body = Vec::new();
            let told = shape.write(frame, &mut body);
            let body = String::from_utf8(body).unwrap();
            assert_eq!(told.then_some(body.as_str()), want, "{shape:?}");
            assert!(!told || check(body.as_bytes()) == Ok(Kind::Object));
        }
    }
}
