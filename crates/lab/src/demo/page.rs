//! Plain text for people, in lines of at most 90 columns.

const WIDTH: usize = 90;

/// A heading, with a rule to the end of the line.
pub(super) fn heading(title: &str) {
    let rule = "=".repeat(WIDTH.saturating_sub(title.chars().count() + 4));
    println!("== {title} {rule}\n");
}

/// Words in lines that begin below the lead.
pub(super) fn hang(lead: &str, text: &str) {
    let (indent, mut line) = (lead.chars().count(), lead.to_owned());
    for word in text.split_whitespace() {
        let used = line.chars().count();
        if used + word.chars().count() + 1 > WIDTH && used > indent {
            println!("{}", line.trim_end());
            line = " ".repeat(indent);
        }
        line.push_str(word);
        line.push(' ');
    }
    println!("{}", line.trim_end());
}

/// What a program prints, with the call that made it print it.
pub(super) fn quote(call: &str, text: &str) {
    println!("  # {call}");
    for line in text.lines() {
        println!("  {}", line.trim_end());
    }
    println!();
}
