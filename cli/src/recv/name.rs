//! File names from elsewhere, made safe for this disk and the people at it.

/// A file name's length, in bytes, on every file system in use.
const NAME_BYTES: usize = 255;
/// What follows the last dot counts as an extension up to this many bytes.
const EXTENSION_BYTES: usize = 16;
const EMPTY: &str = "document";

/// A name without separators, control or direction-changing characters, neither hidden nor empty, at most 255 bytes.
/// The extension survives the shortening.
pub(crate) fn safe(name: &str) -> String {
    let printable: String = name.chars().map(|c| if harmful(c) { '_' } else { c }).collect();
    let shown = printable.trim().trim_start_matches('.').trim();
    if shown.is_empty() { EMPTY.to_owned() } else { shorten(shown, "") }
}

/// The name for the `number`th message of this name: `report (2).pdf`.
pub(crate) fn numbered(name: &str, number: u32) -> String {
    if number < 2 { name.to_owned() } else { shorten(name, &format!(" ({number})")) }
}

/// Separators; what a terminal or a list of lines trips over; what makes `fdp.exe` look like `exe.pdf`.
fn harmful(c: char) -> bool {
    c == '/'
        || c == '\\'
        || c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Stem, insertion and extension in at most 255 bytes; the stem gives way, at a character's border.
fn shorten(name: &str, insertion: &str) -> String {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && (1..EXTENSION_BYTES).contains(&extension.len()) => {
            (stem, name.get(stem.len()..).unwrap_or_default())
        }
        _ => (name, ""),
    };
    let mut room = NAME_BYTES - insertion.len() - extension.len();
    room = room.min(stem.len());
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{insertion}{extension}", stem.get(..room).unwrap_or_default().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expect: &str) {
        assert_eq!(safe(name), expect);
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["a.pdf", "Công văn số 12.docx", "báo cáo (2).tar.gz", "📄.txt", "no extension", "a..b"] {
            check(name, name);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_or_hide_are_tamed() {
        check("../../etc/passwd", "_.._etc_passwd");
        check("..", "document");
        check(".", "document");
        check("", "document");
        check("   ", "document");
        check("/", "_");
        check("a\\b/c", "a_b_c");
        check(".bashrc", "bashrc");
        check(".tram", "tram");
        check("a\0b\nc\r\u{7f}\u{9b}.pdf", "a_b_c___.pdf");
        check("invoice\u{202e}fdp.exe", "invoice_fdp.exe");
        check("line\u{2028}break", "line_break");
    }

    #[test]
    fn long_names_keep_their_extension_and_whole_characters() {
        let title = "Quyết định về việc ban hành quy chế ".repeat(7);
        assert!(title.len() >= 298);
        let name = safe(&format!("{title}.pdf"));
        assert!(
            name.len() <= 255
                && name.len() > 245
                && name.ends_with(".pdf")
                && title.starts_with(name.trim_end_matches(".pdf")),
            "{name}"
        );
        let emoji = safe(&format!("{}.pdf", "📄".repeat(100)));
        assert!(emoji.len() <= 255 && emoji.ends_with("📄.pdf"), "{emoji}");
        assert_eq!(safe(&"x".repeat(300)).len(), 255);
        // No extension worth keeping.
        assert_eq!(safe(&format!("a.{}", "x".repeat(300))).len(), 255);
        for number in [2, 10_000, u32::MAX] {
            let second = numbered(&name, number);
            assert!(second.len() <= 255 && second.ends_with(&format!(" ({number}).pdf")), "{second}");
        }
    }

    #[test]
    fn numbering_goes_before_the_extension() {
        assert_eq!(numbered("a.pdf", 1), "a.pdf");
        assert_eq!(numbered("a.pdf", 2), "a (2).pdf");
        assert_eq!(numbered("a", 3), "a (3)");
    }
}
