//! What two texts differ in, line by line.

/// Lines around a difference.
const AROUND: usize = 3;
/// Cells of the table that finds what is common: some 16 MB. What would need more is shown as replaced.
const MOST: usize = 4 << 20;

/// A line, and in which text it stands: ' ' in both, '-' in the first, '+' in the second.
type Edit<'a> = (char, &'a str);

/// The differences as `diff -u` shows them; nothing, if there are none.
pub(super) fn unified(names: (&str, &str), old: &str, new: &str) -> String {
    let edits = edits(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let changed: Vec<usize> = (0..edits.len()).filter(|at| edits[*at].0 != ' ').collect();
    let Some(first) = changed.first() else { return String::new() };
    let mut out = format!("--- {}\n+++ {}\n", names.0, names.1);
    let mut hunk = first.saturating_sub(AROUND)..first + 1;
    let count = |edits: &[Edit<'_>], other: char| edits.iter().filter(|(sort, _)| *sort != other).count();
    let mut write = |hunk: std::ops::Range<usize>| {
        let hunk = hunk.start..(hunk.end + AROUND).min(edits.len());
        let (before, lines) = (&edits[..hunk.start], &edits[hunk]);
        let place = |other| {
            let count_here = count(lines, other);
            (count(before, other) + usize::from(count_here > 0), count_here)
        };
        let ((a, n), (b, m)) = (place('+'), place('-'));
        out += &format!("@@ -{a},{n} +{b},{m} @@\n");
        for (sort, line) in lines {
            out += &format!("{sort}{line}\n");
        }
    };
    for at in changed {
        if at > hunk.end + 2 * AROUND {
            write(std::mem::replace(&mut hunk, at - AROUND..at + 1));
        }
        hunk.end = at + 1;
    }
    write(hunk);
    out
}

/// The longest common lines stay; what is common at both ends is not looked at twice.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut out: Vec<Edit<'a>> = old[..head].iter().map(|line| (' ', *line)).collect();
    if a.len().saturating_mul(b.len()) > MOST {
        out.extend(a.iter().map(|line| ('-', *line)));
        out.extend(b.iter().map(|line| ('+', *line)));
    } else {
        // By row and column: how many lines from there on are common.
        let width = b.len() + 1;
        let mut common = vec![0_u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                let (down, right) = (common[(i + 1) * width + j], common[i * width + j + 1]);
                common[i * width + j] =
                    if a[i] == b[j] { common[(i + 1) * width + j + 1] + 1 } else { down.max(right) };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                out.push((' ', a[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == b.len() || i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
                out.push(('-', a[i]));
                i += 1;
            } else {
                out.push(('+', b[j]));
                j += 1;
            }
        }
    }
    out.extend(old[old.len() - tail..].iter().map(|line| (' ', *line)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_with_what_stands_around_them() {
        let lines = |range: std::ops::Range<u32>| range.map(|n| format!("{n}\n")).collect::<String>();
        for (old, new, want) in [
            ("a\nb\n", "a\nb\n", String::new()),
            ("a\nb\nc\n", "a\nx\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n".into()),
            ("", "a\n", "@@ -0,0 +1,1 @@\n+a\n".into()),
            ("a\nb\na\nb\n", "b\na\nb\na\n", "@@ -1,4 +1,4 @@\n-a\n b\n a\n b\n+a\n".into()),
            (
                &lines(1..30),
                &lines(1..30).replace("\n15\n", "\n"),
                "@@ -12,7 +12,6 @@\n 12\n 13\n 14\n-15\n 16\n 17\n 18\n".into(),
            ),
            (
                &lines(1..30),
                &lines(2..29),
                "@@ -1,4 +1,3 @@\n-1\n 2\n 3\n 4\n@@ -26,4 +25,3 @@\n 26\n 27\n 28\n-29\n".into(),
            ),
        ] {
            let got = unified(("old", "new"), old, new);
            assert_eq!(got.strip_prefix("--- old\n+++ new\n").unwrap_or(&got), want, "{old:?} {new:?}");
        }
        let long = |n: u32| (0..5000).map(|i| format!("{}\n", i * n)).collect::<String>();
        assert!(unified(("a", "b"), &long(2), &long(3)).len() > 10_000);
    }
}
