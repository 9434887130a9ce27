//! Without a fuzzer: a target on files, and a target's seeds into a folder.

use std::fs;
use std::io;
use std::path::Path;

use egressd_fuzz::Target;

/// What went wrong; all of it is the user's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another command line.
    #[error("usage: egressd-fuzz TARGET FILE…, or egressd-fuzz TARGET --seeds FOLDER")]
    Usage,
    /// A file or folder that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// As given.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// Runs the command line; a file whose input is a finding panics.
pub(crate) fn run(arguments: &[String]) -> Result<(), Error> {
    let (target, rest) = arguments.split_first().ok_or(Error::Usage)?;
    let target: Target = target.parse().map_err(|_| Error::Usage)?;
    match rest {
        [] => Err(Error::Usage),
        [flag, folder] if flag == "--seeds" => seed(target, folder),
        files => files.iter().try_for_each(|file| {
            target.run(&fs::read(file).map_err(|source| Error::File { path: file.clone(), source })?);
            eprintln!("{file}: no finding");
            Ok(())
        }),
    }
}

fn seed(target: Target, folder: &str) -> Result<(), Error> {
    let write = || {
        fs::create_dir_all(folder)?;
        let mut seeds = target.seeds().into_iter().enumerate();
        seeds.try_for_each(|(number, seed)| fs::write(Path::new(folder).join(format!("seed-{number}")), seed))
    };
    write().map_err(|source| Error::File { path: folder.to_owned(), source })
}
