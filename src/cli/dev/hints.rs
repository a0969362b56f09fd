//! What to try on a ring that runs, as lines to be typed in another terminal. Pure.

use std::net::SocketAddr;

/// Where things are.
pub(super) struct Where<'a> {
    pub(super) ring: &'a str,
    pub(super) nats: &'a str,
    /// As it was called.
    pub(super) program: &'a str,
    /// The `nats` command line.
    pub(super) nats_cli: &'a str,
    /// Nodes' names and addresses.
    pub(super) nodes: &'a [(&'a str, SocketAddr)],
}

const DEFAULT_PORT: &str = ":4222";
const DEFAULT_RING: &str = "cache-platform";

/// The lines; none while no node is known.
pub(super) fn lines(at: &Where<'_>) -> Vec<String> {
    let Some((first, _)) = at.nodes.first() else { return Vec::new() };
    let port = |n: usize| at.nodes[n.min(at.nodes.len() - 1)].1.port();
    let (ring, ask) = (at.ring, flags(at));
    let server = if is_default(at.nats) { String::new() } else { format!(" -s {}", at.nats) };
    let nats = format!("{}{server}", at.nats_cli);
    vec![
        format!(
            "curl -X POST localhost:{}/set -H 'content-type: application/json' -d '{{\"key\":\"user:1\",\"value\":\"Alice\"}}'",
            port(0)
        ),
        format!("curl 'localhost:{}/get?key=user:1'       # from any node", port(1)),
        format!("curl 'localhost:{}/owner?key=user:1'", port(2)),
        format!("curl localhost:{}/ring                    # who owns what", port(0)),
        format!("{nats} req {ring}.get '{{\"key\":\"user:1\"}}'"),
        format!("{nats} micro ls"),
        format!("{} dev kill {first}{ask}              # it crashes, the others take over", at.program),
        format!(
            "{} dev add{ask}                      # one more; also stop, restart, freeze, thaw, status",
            at.program
        ),
    ]
}

/// What a second terminal must say to find this ring.
fn flags(at: &Where<'_>) -> String {
    let nats = if is_default(at.nats) { String::new() } else { format!(" --nats {}", at.nats) };
    let ring = if at.ring == DEFAULT_RING { String::new() } else { format!(" --platform {}", at.ring) };
    nats + &ring
}

fn is_default(nats: &str) -> bool {
    let local = ["127.0.0.1", "localhost"].map(|host| format!("nats://{host}{DEFAULT_PORT}"));
    local.iter().any(|url| url == nats)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nodes() -> Vec<(&'static str, SocketAddr)> {
        vec![("node-1", ([127, 0, 0, 1], 8081).into()), ("node-2", ([127, 0, 0, 1], 8082).into())]
    }

    #[test]
    fn where_everything_is_as_by_default_nothing_more_is_to_be_typed() {
        let nodes = nodes();
        let nats = "nats://127.0.0.1:4222";
        let lines =
            lines(&Where { ring: "cache-platform", nats, program: "nats-ring", nats_cli: "nats", nodes: &nodes });
        assert!(lines[1].starts_with("curl 'localhost:8082/get?key=user:1' "), "{lines:#?}");
        assert!(lines[4].starts_with("nats req cache-platform.get "), "{lines:#?}");
        assert!(lines[6].starts_with("nats-ring dev kill node-1  "), "{lines:#?}");
    }

    #[test]
    fn another_server_and_another_ring_are_named() {
        let nodes = nodes();
        let nats = "nats://127.0.0.1:4322";
        let lines = lines(&Where { ring: "r", nats, program: "x/nats-ring", nats_cli: "nats", nodes: &nodes });
        assert!(lines[5].starts_with("nats -s nats://127.0.0.1:4322 micro"), "{lines:#?}");
        assert!(lines[6].starts_with("x/nats-ring dev kill node-1 --nats nats://127.0.0.1:4322 --platform r "));
        assert!(super::lines(&Where { ring: "r", nats, program: "", nats_cli: "", nodes: &[] }).is_empty());
    }
}
