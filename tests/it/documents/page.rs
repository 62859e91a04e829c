//! Reading documents, and writing the one that the program writes.

use clap::{Arg, ArgAction, Command};
use dayfly::cli::Cli;
use std::fmt::Write as _;

/// What stands behind it in `docs/cli.md` is made from the program's own definition.
pub const MARK: &str =
    "<!-- from here on made by the test `documents`; change src/cli instead -->\n";

/// Every `](target)` outside of fences, with its line.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for rest in line.split("](").skip(1) {
            if let Some((to, _)) = rest.split_once(')') {
                found.push((number + 1, to.to_owned()));
            }
        }
    }
    found
}

/// Headings as GitHub names them.
pub fn anchors(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

/// The words of every `dayfly` command in a piece of shell, cut off at the first operator.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    joined.lines().flat_map(commands_of_line).collect()
}

fn commands_of_line(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut current: Option<Vec<String>> = None;
    let mut at_start = true;
    for word in words(line) {
        match word {
            Word::Operator => {
                found.extend(current.take());
                at_start = true;
            }
            Word::Text(text) => {
                if let Some(words) = &mut current {
                    words.push(text);
                } else if at_start && text == "dayfly" {
                    current = Some(vec![text]);
                } else {
                    // Assignments and YAML's `- run:` stand before a command.
                    at_start = at_start
                        && (text.contains('=')
                            || text == "-"
                            || text.ends_with(':')
                            || text == "$");
                }
            }
        }
    }
    found.extend(current);
    found
}

enum Word {
    Text(String),
    Operator,
}

fn words(line: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | '<' | '&' | ';' | '(' | ')' | '`') => {
                found.extend(word.take().map(Word::Text));
                found.push(Word::Operator);
            }
            (None, c) if c.is_whitespace() => found.extend(word.take().map(Word::Text)),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    found.extend(word.map(Word::Text));
    found
}

/// Every command with all that it takes, as Markdown.
pub fn reference(program: &mut Command) -> String {
    program.build();
    let mut page = String::new();
    for command in program.get_subcommands() {
        section(command, "dayfly", &mut page);
    }
    page
}

fn section(command: &Command, above: &str, page: &mut String) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{above} {}", command.get_name());
    if command.has_subcommands() {
        for below in command.get_subcommands() {
            section(below, &name, page);
        }
        return;
    }
    let about = command
        .get_long_about()
        .or_else(|| command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    writeln!(page, "\n## `{name}`\n\n{}\n", escape(about.trim())).unwrap();
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|one| !matches!(one.get_id().as_str(), "help" | "version" | "output"))
        .collect();
    if !arguments.is_empty() {
        page.push_str("| argument | default | meaning |\n|---|---|---|\n");
        for one in arguments {
            row(one, page);
        }
        page.push('\n');
    }
    if let Some(example) = example(command) {
        writeln!(page, "```sh not-run\n{example}\n```").unwrap();
    }
}

fn row(one: &Arg, page: &mut String) {
    let values: Vec<_> = one
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    let takes = matches!(one.get_action(), ArgAction::Set | ArgAction::Append);
    let name = match one.get_long() {
        Some(long) if takes => format!("--{long} {}", values.join(" ")),
        Some(long) => format!("--{long}"),
        None => values.join(" "),
    };
    let mut defaults: Vec<_> = one
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .filter(|_| takes)
        .collect();
    if let Some(variable) = one.get_env() {
        defaults.insert(0, format!("`${}`", variable.to_string_lossy()));
    }
    if one.is_required_set() && defaults.is_empty() {
        defaults.push("required".to_owned());
    }
    let mut help = one
        .get_long_help()
        .or_else(|| one.get_help())
        .map(|help| help.to_string().replace("\n\n", " ").replace('\n', " "))
        .unwrap_or_default();
    assert!(!help.is_empty(), "{name} has no help text");
    let choices: Vec<_> = one
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if takes && !choices.is_empty() {
        write!(help, " ({})", choices.join(", ")).unwrap();
    }
    let help = escape(&help).replace('|', "\\|");
    writeln!(page, "| `{name}` | {} | {help} |", defaults.join(", ")).unwrap();
}

/// Angle brackets outside of code would be HTML.
fn escape(text: &str) -> String {
    let mut code = false;
    text.chars()
        .map(|c| {
            if c == '`' {
                code = !code;
            }
            match c {
                '<' if !code => "&lt;".to_owned(),
                c => c.to_string(),
            }
        })
        .collect()
}

/// What stands under `Example:` in the help.
fn example(command: &Command) -> Option<String> {
    let after = command.get_after_help()?.to_string();
    let (_, example) = after.split_once("Example:\n")?;
    let lines: Vec<_> = example
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    Some(lines.join("\n"))
}

/// How many commands have an example; each of its lines must parse.
pub fn examples_of_help(program: &Command) -> usize {
    use clap::Parser as _;
    let mut count = 0;
    let mut all = vec![program.clone()];
    while let Some(command) = all.pop() {
        all.extend(command.get_subcommands().cloned());
        let Some(example) = example(&command) else {
            let inner = command.has_subcommands() || command.get_name() == "help";
            assert!(inner, "`{}` has no example in its help", command.get_name());
            continue;
        };
        count += 1;
        for words in commands(&example) {
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{words:?}: {error}");
            }
        }
    }
    count
}

/// Every environment variable that an argument reads.
pub fn environment(program: &Command) -> Vec<String> {
    let mut found = Vec::new();
    let mut all = vec![program.clone()];
    while let Some(command) = all.pop() {
        all.extend(command.get_subcommands().cloned());
        for one in command.get_arguments() {
            found.extend(
                one.get_env()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    found.sort();
    found.dedup();
    found
}
