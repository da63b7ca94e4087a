//! Text armor: base64 between a `-----BEGIN X-----` and an `-----END X-----` line. PEM (RFC 7468)
//! and SSH signatures are both this, with other labels and widths.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::FormatError;

/// How all armor begins.
pub(super) const BEGIN: &[u8] = b"-----BEGIN ";

/// A kind of armor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Armor {
    /// What stands after BEGIN and END.
    pub(super) label: &'static str,
    /// Base64 digits in a full line.
    pub(super) width: usize,
    /// What errors call it.
    pub(super) form: &'static str,
}

impl Armor {
    /// Writes the armor, with a newline at its end.
    pub(super) fn encode(&self, bytes: &[u8]) -> String {
        let mut text = self.line("BEGIN");
        text.push('\n');
        for (index, digit) in STANDARD.encode(bytes).chars().enumerate() {
            if index > 0 && index.is_multiple_of(self.width) {
                text.push('\n');
            }
            text.push(digit);
        }
        text.push('\n');
        text.push_str(&self.line("END"));
        text.push('\n');
        text
    }

    /// Reads armor: the header at the very start, the footer at the end with nothing but white
    /// space after it, and canonical base64 (padded, no stray bits) on lines of any width between.
    pub(super) fn decode(&self, text: &[u8]) -> Result<Vec<u8>, FormatError> {
        let text = std::str::from_utf8(text).map_err(|_| self.malformed("it is not text"))?;
        let body = text
            .strip_prefix(self.line("BEGIN").as_str())
            .ok_or_else(|| self.malformed("it does not start with its BEGIN line"))?
            .trim_ascii_end()
            .strip_suffix(self.line("END").as_str())
            .ok_or_else(|| self.malformed("it does not end with its END line"))?;
        let broken = body.starts_with('\n') || body.starts_with("\r\n");
        if !broken || !body.ends_with('\n') {
            return Err(self.malformed("its BEGIN or END does not have a line of its own"));
        }
        let digits: String = body.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        STANDARD.decode(digits).map_err(|_| self.malformed("what is between its BEGIN and END lines is not base64"))
    }

    fn line(&self, word: &str) -> String {
        format!("-----{word} {}-----", self.label)
    }

    fn malformed(&self, problem: &'static str) -> FormatError {
        let form = self.form;
        FormatError::Malformed { form, problem }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing;
    use super::*;

    const NOTE: Armor = Armor { label: "NOTE", width: 8, form: "note" };

    /// RFC 4648 section 10: "foobar" is "Zm9vYmFy".
    const ONE_LINE: &str = "-----BEGIN NOTE-----\nZm9vYmFy\n-----END NOTE-----\n";

    #[test]
    fn a_line_that_is_just_full_is_not_followed_by_an_empty_one() {
        assert_eq!(NOTE.encode(b"foobar"), ONE_LINE);
        let two_lines = "-----BEGIN NOTE-----\nZm9vYmFy\nZg==\n-----END NOTE-----\n";
        assert_eq!(NOTE.encode(b"foobarf"), two_lines);
    }

    #[test]
    fn other_line_ends_and_widths_are_read() {
        let crlf = ONE_LINE.replace('\n', "\r\n");
        let narrow = ONE_LINE.replace("Zm9v", "Zm9v\n");
        for text in [ONE_LINE, ONE_LINE.trim_end(), &crlf, &narrow] {
            assert_eq!(NOTE.decode(text.as_bytes()).unwrap(), b"foobar");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        testing::assert_prefixes_refused(ONE_LINE.trim_end().as_bytes(), |text| NOTE.decode(text));
        let refused = [
            format!(" {ONE_LINE}"),
            format!("{ONE_LINE}more"),
            format!("{ONE_LINE}{ONE_LINE}"),
            ONE_LINE.replace("NOTE", "PUBLIC KEY"),
            ONE_LINE.replace("\nZm9v", "Zm9v"),
            ONE_LINE.replace("YmFy\n", "YmFy"),
            ONE_LINE.replace("YmFy", "Ym Fy"),
            ONE_LINE.replace("YmFy", "Ym-y"),
            ONE_LINE.replace("YmFy", "Yg"),
            // Bits after the last byte that are not zero: "Zg==" is the canonical one.
            ONE_LINE.replace("YmFy", "Zh=="),
        ];
        for text in refused {
            assert!(NOTE.decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}
