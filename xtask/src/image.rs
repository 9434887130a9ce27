//! `cargo xtask image`: the images of both daemons.
//!
//! By a tool that builds Dockerfiles, from official bases, for each platform that is asked for; or, with `--local`, by
//! buildah alone from what this machine has: its release binaries on a base of its own C library and certificates. The
//! latter needs no registry, and shows that the last stage of the Dockerfiles works.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process;
use crate::workspace::Workspace;

/// The daemons, each with a Dockerfile of its name.
const DAEMONS: [&str; 2] = ["collector", "exporter"];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const USERS: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:10001:10001::/:/sbin/nologin\n";
/// The name of the local base.
const LOCAL_BASE: &str = "localhost/egressd-base";

/// What is built, by what and for what.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Registry and folder that the images' names begin with; none: names without a registry
    #[arg(long, default_value = "")]
    repository: String,
    /// Tag; the workspace's version unless given
    #[arg(long)]
    tag: Option<String>,
    /// Platforms, with commas between: linux/amd64, linux/arm64; this machine's unless given
    #[arg(long)]
    platform: Option<String>,
    /// What builds: docker, podman or buildah
    #[arg(long, default_value = "docker")]
    tool: String,
    /// Base of the build stage, by digest for a release
    #[arg(long)]
    build_image: Option<String>,
    /// Base of the image, by digest for a release
    #[arg(long)]
    runtime_image: Option<String>,
    /// Push to the registry
    #[arg(long)]
    push: bool,
    /// From this machine's release binaries and libraries, by buildah, for this machine's architecture
    #[arg(long)]
    local: bool,
}

/// Builds both images.
///
/// # Errors
///
/// When a tool is missing or fails.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    ensure!(
        !args.push || args.tool == "docker",
        "{0} build cannot push: leave --push out, then `{0} push` both images",
        args.tool
    );
    ensure!(
        args.push || args.tool != "docker" || !args.platform().contains(','),
        "docker keeps images of one platform alone: name one, or --push"
    );
    let local = args.local.then(|| Local::make(workspace)).transpose()?;
    for daemon in DAEMONS {
        let mut arguments = match &local {
            Some(local) => local.build(daemon),
            None => args.build(),
        };
        let tag = args.tag.clone().map_or_else(|| workspace.version(), Ok)?;
        let name = format!("egressd-{daemon}:{tag}");
        let name = if args.repository.is_empty() { name } else { format!("{}/{name}", args.repository) };
        let revision = revision(&workspace.root).unwrap_or_else(|_| "unknown".to_owned());
        for (key, value) in [("VERSION", tag.as_str()), ("REVISION", &revision)] {
            arguments.extend(["--build-arg".to_owned(), format!("{key}={value}")]);
        }
        arguments.extend([
            "--file".to_owned(),
            format!("Dockerfile.{daemon}"),
            "--tag".to_owned(),
            name,
            ".".to_owned(),
        ]);
        let (program, arguments) = arguments.split_first().context("a tool")?;
        let mut command = process::clean(program);
        command.args(arguments).current_dir(&workspace.root);
        if local.is_some() {
            command.env("STORAGE_DRIVER", "vfs");
        }
        process::run(process::chatter(&mut command))?;
    }
    Ok(())
}

impl Args {
    fn platform(&self) -> String {
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.platform.clone().unwrap_or_else(|| format!("linux/{own}"))
    }

    /// The tool with all that is the same for both images.
    fn build(&self) -> Vec<String> {
        let mut words = match self.tool.as_str() {
            "docker" => vec!["docker", "buildx", "build"],
            other => vec![other, "build"],
        };
        let platform = self.platform();
        words.extend(["--platform", &platform]);
        // Else what a builder in a container has built stays in its cache.
        match (self.push, self.tool.as_str()) {
            (true, _) => words.push("--push"),
            (false, "docker") => words.push("--load"),
            (false, _) => {}
        }
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        for (key, image) in [("BUILD_IMAGE", &self.build_image), ("RUNTIME_IMAGE", &self.runtime_image)] {
            if let Some(image) = image {
                words.extend(["--build-arg".to_owned(), format!("{key}={image}")]);
            }
        }
        words
    }
}

/// A base of this machine's files, and its release binaries in the place of the build stage.
struct Local {
    binaries: PathBuf,
}

impl Local {
    fn make(workspace: &Workspace) -> Result<Self> {
        let mut build = process::cargo(&workspace.root, &["build", "--release", "--locked"]);
        build.args(["--package", "egressd-collector", "--package", "egressd-exporter"]);
        process::run(process::chatter(&mut build))?;
        let folder = workspace.target.join("image");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        let (built, binaries, base) =
            (workspace.target.join("release"), folder.join("binaries"), folder.join("base"));
        lay_base(&base)?;
        for daemon in DAEMONS {
            let name = format!("egressd-{daemon}");
            let from = built.join(&name);
            let to = binaries.join(daemon).join("out/usr/local/bin").join(&name);
            copy(&from, &to)?;
            process::run(process::clean("strip").arg(&to))?;
            for library in libraries(&from)? {
                copy(&library, &inside(&base, &library))?;
            }
        }
        buildah(&["build", "--tag", LOCAL_BASE, "--file", "-", &base.to_string_lossy()], BASE)?;
        Ok(Self { binaries })
    }

    fn build(&self, daemon: &str) -> Vec<String> {
        let context = format!("build={}", self.binaries.join(daemon).display());
        let words = [
            "buildah",
            "build",
            "--isolation",
            "chroot",
            "--pull-never",
            "--skip-unused-stages",
            "--build-context",
        ];
        let words = words.into_iter().map(str::to_owned);
        words.chain([context, "--build-arg".to_owned(), format!("RUNTIME_IMAGE={LOCAL_BASE}")]).collect()
    }
}

/// All that a binary needs around it: libraries, the loader, certificates, and names of users.
const BASE: &str = "FROM scratch\nCOPY . /\n";

fn lay_base(base: &Path) -> Result<()> {
    for folder in ["tmp", "run", "etc", "var"] {
        let path = base.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    let certificates = Path::new(CERTIFICATES);
    copy(certificates, &inside(base, certificates))?;
    symlink("/run", base.join("var/run")).context("link var/run")?;
    fs::write(base.join("etc/passwd"), USERS).context("write etc/passwd")
}

/// What the loader of this machine finds for a binary, itself among it.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let found = process::output(process::clean("ldd").arg(binary))?;
    let paths = found.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// The place of an absolute path below another root.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn buildah(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = process::clean("buildah");
    command.args(arguments).env("STORAGE_DRIVER", "vfs");
    process::feed(process::chatter(&mut command), input)
        .context("buildah builds from this machine's files; `apt-get install buildah` brings it")
}

/// The commit, and whether something in the workspace is not of it.
fn revision(root: &Path) -> Result<String> {
    let arguments = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
    let text = process::output(process::clean("git").args(arguments).current_dir(root))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Goal: platforms and bases reach the tool; docker builds for several by buildx.
    #[test]
    fn bases_and_platforms_reach_the_tool() {
        let line = Line::parse_from([
            "image",
            "--platform",
            "linux/amd64,linux/arm64",
            "--push",
            "--runtime-image",
            "base@sha256:1",
        ]);
        let words = line.args.build().join(" ");
        let expected = "docker buildx build --platform linux/amd64,linux/arm64 --push --build-arg RUNTIME_IMAGE=base@sha256:1";
        assert_eq!(words, expected);
    }

    /// Goal: without a registry the images are of this machine's kind and where docker runs them from; several platforms
    /// cannot be.
    #[test]
    fn images_for_this_machine_are_loaded() {
        let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let words = Line::parse_from(["image"]).args.build().join(" ");
        assert_eq!(words, format!("docker buildx build --platform linux/{own} --load"));
        let buildah = Line::parse_from(["image", "--tool", "buildah"]).args.build().join(" ");
        assert_eq!(buildah, format!("buildah build --platform linux/{own}"));
        let several = Line::parse_from(["image", "--platform", "linux/amd64,linux/arm64"]).args;
        let root = PathBuf::from("/nowhere");
        let workspace = Workspace { target: root.join("target"), root, packages: Vec::new() };
        let refused = run(&several, &workspace).unwrap_err().to_string();
        assert_eq!(refused, "docker keeps images of one platform alone: name one, or --push");
    }
}
