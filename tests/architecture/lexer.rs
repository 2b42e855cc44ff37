//! As much of the language as the rules need: comments, strings, `use` trees, and what is compiled for tests only.

/// A path as it is written: its line (from 1) and its names; a macro's name ends in `!`.
#[derive(Debug, PartialEq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// Source text taken apart, line by line as it was.
pub(crate) struct Stripped {
    pub(crate) code: String,
    pub(crate) comments: String,
}

/// Separates code from comments, and empties strings and characters.
pub(crate) fn strip(text: &str) -> Stripped {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1).copied().unwrap_or('\n')) {
            ('/', '/') => comment_end(&chars, at),
            ('/', '*') => block_comment_end(&chars, at),
            ('"', _) => string_end(&chars, at),
            ('r', '"' | '#') if !follows_name(&chars, at) => raw_string_end(&chars, at),
            ('b' | 'c', 'r') if !follows_name(&chars, at) => match raw_string_end(&chars, at + 1) {
                end if end == at + 1 => at,
                end => end,
            },
            ('\'', _) => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            comments.push(if chars[at] == '\n' { '\n' } else { ' ' });
            at += 1;
            continue;
        }
        let is_comment = chars[at] == '/';
        for skipped in &chars[at..end] {
            code.push(if *skipped == '\n' { '\n' } else { ' ' });
            comments.push(if is_comment || *skipped == '\n' { *skipped } else { ' ' });
        }
        at = end;
    }
    Stripped { code, comments }
}

fn follows_name(chars: &[char], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| is_name_char(chars[before]))
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn comment_end(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|index| chars[*index] == '\n').unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (at, depth) = (at + 2, depth + 1),
            ('*', '/') => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `start` is at the `r`. A raw name (`r#type`) is no string.
fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let body = start + 2 + hashes;
    let is_end =
        |at: &usize| chars[*at] == '"' && chars[*at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (body..chars.len()).find(is_end).map_or(chars.len(), |at| at + 1 + hashes)
}

/// A character's end; its beginning if it is a lifetime.
fn char_end(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), Some(_)) => {
            (start + 3..chars.len()).find(|at| chars[*at] == '\'').map_or(chars.len(), |at| at + 1)
        }
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

/// Code without the items under `#[cfg(test)]`, and those items alone; lines stay where they were.
pub(crate) fn split_tests(code: &str) -> (String, String) {
    const HEAD: &str = "#[cfg(test)]";
    let (mut product, mut tests) = (String::new(), String::new());
    let mut rest = code;
    while let Some(start) = rest.find(HEAD) {
        let end = start + HEAD.len() + item_end(&rest[start + HEAD.len()..]);
        product.push_str(&rest[..start]);
        product.push_str(&blank(&rest[start..end]));
        tests.push_str(&blank(&rest[..start]));
        tests.push_str(&rest[start..end]);
        rest = &rest[end..];
    }
    product.push_str(rest);
    (product, tests)
}

/// Where an item ends: at its closing brace or its semicolon; an import only at the latter.
fn item_end(code: &str) -> usize {
    let is_import =
        code.split_whitespace().find(|word| !word.starts_with("#[") && !word.starts_with("pub")) == Some("use");
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if c == '}' && depth == 0 && !is_import {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn blank(code: &str) -> String {
    code.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Every path in `code`; imports are written out in full and begin with `use `.
pub(crate) fn paths(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = &tokens[at];
        if token == "use" && tokens.get(at + 1).is_some_and(|(_, next)| next != "<") {
            at = read_use_tree(&tokens, at + 1, "use ", &mut found);
        } else if token.starts_with(is_name_char) {
            let (path, end) = read_path(&tokens, at);
            found.push(Named { line: *line, path });
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

fn read_path(tokens: &[(usize, String)], start: usize) -> (String, usize) {
    let mut path = tokens[start].1.clone();
    let mut at = start + 1;
    while at + 1 < tokens.len() && tokens[at].1 == "::" && tokens[at + 1].1.starts_with(is_name_char) {
        path = format!("{path}::{}", tokens[at + 1].1);
        at += 2;
    }
    if tokens.get(at).is_some_and(|(_, next)| next == "!") {
        path.push('!');
    }
    (path, at)
}

/// Reads one branch of a `use` tree. Returns where it ends.
fn read_use_tree(tokens: &[(usize, String)], start: usize, prefix: &str, found: &mut Vec<Named>) -> usize {
    let mut path = prefix.to_owned();
    let mut at = start;
    let line = tokens.get(start).map_or(0, |(line, _)| *line);
    while let Some((_, token)) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|(_, token)| token != "}") {
                    at = read_use_tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|(_, token)| token == ","));
                }
                return at + 1;
            }
            "as" => at += 2,
            "," | "}" | ";" => break,
            "::" if path == "use " => at += 1,
            // `std::{self}` is `std`.
            "self" if path.ends_with("::") => {
                path.truncate(path.len() - 2);
                at += 1;
            }
            _ => {
                path.push_str(token);
                at += 1;
            }
        }
    }
    found.push(Named { line, path });
    at
}

/// Names, `::` and single other characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_name_char(first) {
                rest.find(|c| !is_name_char(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((index + 1, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}
