//! Licence expressions (SPDX): may this be used, given the licences that are allowed?
//!
//! `OR` leaves the choice to the user, `AND` does not; `WITH` belongs to the licence before it. The old notation
//! `MIT/Apache-2.0` means `OR`.

/// Whether some choice that the `expression` leaves is covered by `allowed`. Broken expressions allow nothing.
#[must_use]
pub fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    let verdict = reader.any();
    verdict && reader.words.is_empty()
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Reader<'_> {
    fn any(&mut self) -> bool {
        let mut verdict = self.all();
        while self.take("OR") {
            // Not short-circuited: the words must be read in any case.
            verdict |= self.all();
        }
        verdict
    }

    fn all(&mut self) -> bool {
        let mut verdict = self.one();
        while self.take("AND") {
            verdict &= self.one();
        }
        verdict
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let verdict = self.any();
            return self.take(")") && verdict;
        }
        let Some((license, rest)) = self.words.split_first() else { return false };
        self.words = rest;
        let mut name = (*license).to_owned();
        if self.take("WITH")
            && let Some((exception, rest)) = self.words.split_first()
        {
            self.words = rest;
            name = format!("{name} WITH {exception}");
        }
        self.allowed.contains(&name)
    }

    fn take(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((first, rest)) if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_and_duties_are_told_apart() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from);
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "MIT WITH Odd-exception", "MIT MIT"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
