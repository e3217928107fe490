//! JSON with comments, as a person would write it.

use serde_json::Value;

/// Columns that a line may have.
const WIDTH: usize = 116;

/// A field or an item with the comments before it; without a value only those.
#[derive(Default)]
pub(super) struct Line {
    pub notes: Vec<String>,
    /// Empty in a list.
    pub key: String,
    pub value: Option<Out>,
}

pub(super) enum Out {
    Plain(Value),
    /// A text with a reference that is to be filled in.
    Reference(String),
    List(Vec<Line>),
    Object(Vec<Line>),
}

impl Line {
    pub fn new(key: &str, value: Out) -> Self {
        Line { notes: Vec::new(), key: key.to_owned(), value: Some(value) }
    }

    pub fn plain(key: &str, value: impl Into<Value>) -> Self {
        Line::new(key, Out::Plain(value.into()))
    }

    pub fn note(note: impl Into<String>) -> Self {
        Line { notes: vec![note.into()], ..Line::default() }
    }

    pub fn noted(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// The whole file.
pub(super) fn file(head: &[String], root: Vec<Line>) -> String {
    let mut out = String::new();
    for note in head {
        comment(note, 0, &mut out);
    }
    write(&Out::Object(root), 0, 0, &mut out);
    out.push('\n');
    out
}

/// A text with its words on lines of their own, each a comment.
fn comment(text: &str, indent: usize, out: &mut String) {
    let room = WIDTH.saturating_sub(indent + 3);
    let mut line = String::new();
    let mut end = |line: &mut String| {
        *out += &format!("{:indent$}// {}\n", "", line.trim_end());
        line.clear();
    };
    // A name from the file may have a line break: what follows it would be no comment.
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() > room {
            end(&mut line);
        }
        line += word;
        line.push(' ');
    }
    end(&mut line);
}

/// `taken`: the columns that are used on the line already.
fn write(value: &Out, indent: usize, taken: usize, out: &mut String) {
    let (lines, open, close) = match value {
        Out::Plain(value) => return plain(value, indent, taken, out),
        Out::Reference(text) => return *out += &Value::from(text.as_str()).to_string(),
        Out::List(lines) => (lines, '[', ']'),
        Out::Object(lines) => (lines, '{', '}'),
    };
    out.push(open);
    if lines.is_empty() {
        out.push(close);
        return;
    }
    out.push('\n');
    let last = lines.iter().rposition(|line| line.value.is_some());
    for (i, line) in lines.iter().enumerate() {
        for note in &line.notes {
            comment(note, indent + 2, out);
        }
        let Some(value) = &line.value else { continue };
        let key = if line.key.is_empty() { String::new() } else { format!("{}: ", name(&line.key)) };
        *out += &format!("{:1$}{key}", "", indent + 2);
        write(value, indent + 2, indent + 2 + key.chars().count(), out);
        *out += if Some(i) == last { "\n" } else { ",\n" };
    }
    *out += &format!("{:indent$}{close}", "");
}

/// On one line if it fits.
fn plain(value: &Value, indent: usize, taken: usize, out: &mut String) {
    let short = inline(value);
    let nested = matches!(value, Value::Array(items) if !items.is_empty())
        || matches!(value, Value::Object(fields) if !fields.is_empty());
    if !nested || taken + short.chars().count() < WIDTH {
        *out += &short;
        return;
    }
    let lines: Vec<Line> = match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| Line::plain(key, value.clone())).collect(),
        Value::Array(items) => items.iter().map(|value| Line::plain("", value.clone())).collect(),
        _ => Vec::new(),
    };
    let object = value.is_object();
    write(&if object { Out::Object(lines) } else { Out::List(lines) }, indent, taken, out);
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        Value::Array(items) if !items.is_empty() => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) if !fields.is_empty() => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{}: {}", name(key), inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// The name of a field, in which nothing is a reference.
fn name(name: &str) -> String {
    Value::from(name).to_string()
}

/// A text; what would be a reference is one no more.
fn text(text: &str) -> String {
    Value::from(text.replace("${", "$${")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_readable() {
        let long = json!({ "type": "annotate", "set": { "a": "x".repeat(60), "b": "y".repeat(60) } });
        let root = vec![
            Line::new("sources", Out::Object(vec![Line::plain("events", json!({ "type": "http", "list": [] }))])),
            Line::note("nothing here"),
            Line::new("empty", Out::List(Vec::new())).noted("two\nlines*/ \"and\" more"),
            Line::new(
                "list",
                Out::List(vec![
                    Line::plain("", "a${b}$${c}"),
                    Line::plain("", json!({ "${k}": "${v}" })),
                    Line::plain("", long),
                    Line::note("end"),
                ]),
            ),
        ];
        let x = "x".repeat(60);
        let y = "y".repeat(60);
        let want = format!(
            r#"// head
{{
  "sources": {{
    "events": {{ "type": "http", "list": [] }}
  }},
  // nothing here
  // two lines*/ "and" more
  "empty": [],
  "list": [
    "a$${{b}}$$${{c}}",
    {{ "${{k}}": "$${{v}}" }},
    {{
      "type": "annotate",
      "set": {{
        "a": "{x}",
        "b": "{y}"
      }}
    }}
    // end
  ]
}}
"#
        );
        assert_eq!(file(&["head".into()], root), want);
    }
}
