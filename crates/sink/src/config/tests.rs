//! Settings as operators write them.

use super::*;

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "API_KEY" => "k3y",
        "CLUSTER_ID" => "c-1",
        "1" => "one",
        "HEADER" => "a\nb",
        _ => return None,
    };
    Some(value.to_owned())
}

fn sink(yaml: &str, interval: Option<Duration>) -> Result<SinkConfig, SinkError> {
    SinkConfig::new("test", serde_saphyr::from_str(yaml).unwrap(), interval, &environment)
}

/// Goal: the contract's own example gives what the contract says of it.
#[test]
fn contract_examples_are_understood() {
    let http = sink(
        r#"
http:
  url: "https://api.cast.ai/v1/kubernetes/clusters/${CLUSTER_ID}/egressd-metrics"
  compression: gzip
  encoding: protobuf
  timeout: 2m30s
  headers: { X-API-Key: "${API_KEY}" }
"#,
        None,
    )
    .unwrap();
    assert_eq!((http.interval, http.origin()), (Duration::from_secs(60), "https://api.cast.ai".to_owned()));
    let Kind::Http(settings) = &http.kind else { panic!("{http:?}") };
    assert_eq!(settings.url.expose().path(), "/v1/kubernetes/clusters/c-1/egressd-metrics");
    assert_eq!(
        (&settings.method, settings.gzip, settings.timeout, settings.headers["x-api-key"].as_bytes()),
        (&Method::POST, true, Duration::from_secs(150), b"k3y".as_slice())
    );

    let write = sink(
        r#"
prom_remote_write:
  url: "http://user:p4ss@victoria:8428/api/v1/write"
  headers: { X-Scope-OrgID: tenant }
  labels: { my_label: value }
  sendReceivedBytesMetric: true
"#,
        None,
    )
    .unwrap();
    assert_eq!(
        (write.interval, write.origin()),
        (Duration::from_secs(15), "http://victoria:8428".to_owned())
    );
    let Kind::RemoteWrite(settings) = &write.kind else { panic!("{write:?}") };
    assert_eq!((settings.send_received_bytes_metric, settings.timeout), (true, Duration::from_secs(30)));
    assert_eq!(settings.labels, BTreeMap::from([("my_label".to_owned(), "value".to_owned())]));

    for (config, secrets) in [(http, ["k3y", "c-1"]), (write, ["p4ss", "tenant"])] {
        let printed = format!("{config:?}");
        assert!(!secrets.iter().any(|secret| printed.contains(secret)), "{printed}");
    }
}

/// Goal: what is absent has its default, and the interval of the file wins over that of the kind.
#[test]
fn absent_keys_have_defaults() {
    let config = sink("http: { url: 'http://x/' }", Some(Duration::from_secs(5))).unwrap();
    assert_eq!(config.interval, Duration::from_secs(5));
    let Kind::Http(settings) = config.kind else { panic!("a kind of http") };
    assert_eq!(
        (settings.method, settings.gzip, settings.timeout, settings.headers),
        (Method::POST, false, Duration::from_secs(30), HeaderMap::new())
    );
    for (yaml, method) in [("method: put", Method::PUT), ("method: ''", Method::POST)] {
        let config = sink(&format!("http: {{ url: 'http://x/', compression: zip, {yaml} }}"), None).unwrap();
        let Kind::Http(settings) = config.kind else { panic!("a kind of http") };
        assert_eq!((settings.method, settings.gzip), (method, false));
    }
}

/// Goal: a compression that there is not means none and is warned about; the ones there are and none at all are not.
#[test]
fn unknown_compression_is_none_with_a_warning() {
    for (compression, gzip, warnings) in [
        ("compression: gzip", true, &[][..]),
        ("compression: none", false, &[]),
        ("compression: ''", false, &[]),
        ("compression: ", false, &[]),
        ("method: POST", false, &[]),
        (
            "compression: zstd",
            false,
            &["compression \"zstd\" is not known and means none; write gzip, or none"],
        ),
        (
            "compression: GZIP",
            false,
            &["compression \"GZIP\" is not known and means none; write gzip, or none"],
        ),
    ] {
        let config = sink(&format!("http: {{ url: 'http://x/', {compression} }}"), None).unwrap();
        let said: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let Kind::Http(settings) = config.kind else { panic!("a kind of http") };
        assert_eq!((settings.gzip, said), (gzip, warnings.iter().map(|text| (*text).to_owned()).collect()));
    }
}

/// Goal: everything that is wrong with a sink is said at once, and no value that may be secret is repeated.
#[test]
fn problems_are_reported_together() {
    for (yaml, expected) in [
        ("{}", "has no kind, write http or prom_remote_write"),
        (
            "{ http: { url: 'http://x/' }, prom_remote_write: { url: 'http://x/' } }",
            "has two kinds, http and prom_remote_write: make two sinks of it",
        ),
        (
            "http: { url: '${UNSET}', method: 'A B', encoding: json, timeout: '15', headers: { 'a b': x, \
             content-Encoding: br, host: x, x-ok: '${HEADER}' } }",
            "url is missing or empty; method \"A B\" is not an HTTP method; encoding \"json\" is not known, the \
             only one is protobuf; timeout: \"15\" has no unit; write for example \"15s\" or \"2m30s\"; header \
             \"a b\" is not a valid name; header \"content-Encoding\" is set by the protocol and cannot be \
             configured; header \"host\" is set by the protocol and cannot be configured; the value of header \
             \"x-ok\" cannot be sent, it holds control characters",
        ),
        (
            "prom_remote_write: { url: 'ftp://k3y@x/', headers: { User-Agent: x, X-Prometheus-Remote-Write-Version: \
             2.0.0 }, labels: { src_pod: x, __name__: x, __tenant: x, 9to5: x, 'a-b': x } }",
            "url has the scheme \"ftp\", only http and https can be pushed to; header \"User-Agent\" is set by the \
             protocol and cannot be configured; header \"X-Prometheus-Remote-Write-Version\" is set by the protocol \
             and cannot be configured; label \"9to5\" is not a valid name, it must match [a-zA-Z_][a-zA-Z0-9_]*; \
             label \"__name__\" is one of the built-in names; label \"__tenant\" is one of the built-in names; \
             label \"a-b\" is not a valid name, it must match [a-zA-Z_][a-zA-Z0-9_]*; label \"src_pod\" is one of \
             the built-in names",
        ),
        ("http: { url: 'http://:k3y', timeout: 0s }", "url is not valid: empty host; timeout is zero"),
    ] {
        assert_eq!(sink(yaml, None).unwrap_err().to_string(), format!("sink \"test\": {expected}"));
    }
    let zero = sink("http: { url: 'http://x/' }", Some(Duration::ZERO)).unwrap_err();
    assert_eq!(zero, SinkError { name: "test".to_owned(), problems: vec![Problem::IntervalZero] });
}

/// Goal: one way to authenticate is taken, what it lacks or stands beside it is named by its keys, and secrets are not
/// printed.
#[test]
fn one_way_to_authenticate_is_taken() {
    let sink_with = |keys: &str| sink(&format!("http: {{ url: 'https://x/', {keys} }}"), None);
    let key = || Credential::Value(Secret::new("k3y".to_owned()));
    let file = |key| Credential::File { key, path: "/f".into() };
    let basic = |password| Authentication::Basic { username: "user".to_owned(), password };
    for (keys, expected) in [
        ("basicAuth: { username: user, password: '${API_KEY}' }", Some(basic(key()))),
        (
            "basicAuth: { username: user, passwordFile: /f, password: }",
            Some(basic(file("basicAuth.passwordFile"))),
        ),
        ("bearerToken: $API_KEY", Some(Authentication::Bearer(key()))),
        ("bearerTokenFile: /f, bearerToken: ''", Some(Authentication::Bearer(file("bearerTokenFile")))),
        ("bearerTokenFile: '', basicAuth: , tls: ", None),
        ("headers: { Authorization: x }", None),
    ] {
        let config = sink_with(keys).unwrap();
        assert!(!format!("{config:?}").contains("k3y"), "{config:?}");
        let Kind::Http(settings) = config.kind else { panic!("a kind of http") };
        assert_eq!(settings.access, Access { authentication: expected, tls: Tls::default() }, "{keys}");
    }
    for (keys, expected) in [
        (
            "basicAuth: { username: user, password: k3y }, bearerToken: k3y, headers: { authorization: k3y }",
            "basicAuth and bearerToken exclude each other: keep one; basicAuth and the header Authorization exclude \
             each other: keep one",
        ),
        (
            "bearerToken: k3y, bearerTokenFile: /f",
            "bearerToken and bearerTokenFile exclude each other: keep one",
        ),
        (
            "basicAuth: { username: user, password: k3y, passwordFile: /f }",
            "basicAuth.password and basicAuth.passwordFile exclude each other: keep one",
        ),
        ("basicAuth: { }", "basicAuth.username is missing or empty; basicAuth.password is missing or empty"),
        (
            "basicAuth: { username: 'a:b', password: '${UNSET}' }",
            "basicAuth.username holds a colon, which would end it; basicAuth.password is missing or empty",
        ),
        ("bearerToken: '${UNSET}'", "bearerToken is missing or empty"),
        ("bearerToken: '${HEADER}'", "bearerToken cannot be sent, it holds control characters"),
        ("tls: { certFile: /c }", "tls.keyFile is missing or empty"),
        ("tls: { keyFile: /k }", "tls.certFile is missing or empty"),
    ] {
        assert_eq!(sink_with(keys).unwrap_err().to_string(), format!("sink \"test\": {expected}"));
    }
    let twice = sink("prom_remote_write: { url: 'http://u:k3y@x/', bearerToken: k3y }", None).unwrap_err();
    assert_eq!(
        twice.to_string(),
        "sink \"test\": bearerToken and the user in url exclude each other: keep one"
    );
}

/// Goal: the version and the temporality are v1 and cumulative unless said otherwise, and delta goes with v1 only.
#[test]
fn version_and_temporality_are_chosen() {
    let chosen = |keys: &str| sink(&format!("prom_remote_write: {{ url: 'http://x/', {keys} }}"), None);
    for (keys, expected) in [
        ("", (Version::V1, Temporality::Cumulative)),
        ("protocol: '', temporality: ", (Version::V1, Temporality::Cumulative)),
        ("protocol: v1, temporality: delta", (Version::V1, Temporality::Delta)),
        ("protocol: v2, temporality: cumulative", (Version::V2, Temporality::Cumulative)),
    ] {
        let Kind::RemoteWrite(settings) = chosen(keys).unwrap().kind else {
            panic!("a kind of remote write")
        };
        assert_eq!((settings.version, settings.temporality), expected, "{keys}");
    }
    for (keys, expected) in [
        (
            "protocol: 2.0, temporality: deltas, timeout: 0s",
            "timeout is zero; protocol \"2.0\" is not known, write v1 or v2; temporality \"deltas\" is not known, write \
             cumulative or delta",
        ),
        ("protocol: v2, temporality: delta", "temporality delta goes with protocol v1 only"),
    ] {
        assert_eq!(chosen(keys).unwrap_err().to_string(), format!("sink \"test\": {expected}"));
    }
}

/// Goal: TLS without a URL that has it is doubted, and understood where the URL has.
#[test]
fn tls_belongs_to_an_https_url() {
    let tls = "tls: { caFile: /ca, certFile: /c, keyFile: /k }";
    for (scheme, warnings) in [("http", vec![Warning::TlsUnused]), ("https", vec![])] {
        let config = sink(&format!("prom_remote_write: {{ url: '{scheme}://x/', {tls} }}"), None).unwrap();
        let Kind::RemoteWrite(settings) = config.kind else { panic!("a kind of remote write") };
        let client = ClientFiles { cert_file: "/c".into(), key_file: "/k".into() };
        assert_eq!(settings.access.tls, Tls { ca_file: Some("/ca".into()), client: Some(client) });
        assert_eq!(config.warnings, warnings);
    }
}

/// Goal: variables expand as Go's `os.Expand` does it.
#[test]
fn variables_expand_as_in_go() {
    for (text, expected) in [
        ("plain", "plain"),
        ("$API_KEY/${CLUSTER_ID}x", "k3y/c-1x"),
        ("$API_KEYx-${UNSET}-$", "--$"),
        ("$1a $-b", "onea b"),
        ("cost: 5$ ${} ${API_KEY", "cost: 5$  API_KEY"),
        ("ü$API_KEYü", "ük3yü"),
    ] {
        assert_eq!(expand(text, &environment), expected, "{text}");
    }
}
