//! What surrounds the process, where flags say nothing: variables of the environment, and small files of a pod.

/// A pod's namespace, in its service account's volume.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Variables, and small files.
pub(crate) trait Surroundings {
    fn variable(&self, name: &str) -> Option<String>;
    /// Its first line.
    fn file(&self, path: &str) -> Option<String>;
}

/// Those of this process.
pub(crate) struct Own;

impl Surroundings for Own {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()?.lines().next().map(str::to_owned)
    }
}

/// An empty value is none, as in a chart that renders one.
pub(crate) fn given(value: Option<String>) -> Option<String> {
    value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The namespace of this pod.
pub(crate) fn own_namespace(around: &impl Surroundings) -> Option<String> {
    given(around.file(NAMESPACE_FILE))
}
