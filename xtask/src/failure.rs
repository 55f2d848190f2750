//! The one form in which these commands report that they cannot go on: the error, then its causes below it.

/// Prints the chain of `error` to stderr.
pub(crate) fn print(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
}
