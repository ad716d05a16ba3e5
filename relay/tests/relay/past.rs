//! The fleet as it was, over HTTP.

use crate::common::{Relay, request, wait_for};

#[test]
fn the_fleet_is_shown_as_the_log_had_it() {
    let relay = Relay::start();
    let session = relay.log_in();
    let token = relay.token(&["--max-uses", "2"]);
    let empty = relay.curl_as(&session, "/api/v1/robots?position=0", &[]);
    assert_eq!(
        empty.problem(),
        (410, "log-gone".into(), "the log is empty".into())
    );
    for robot in ["kiwi-01", "kiwi-02"] {
        let (_, csr) = request(relay.data.path(), robot, &format!("/CN={robot}"));
        assert_eq!(relay.enrol(robot, &token, &csr).status, 200);
    }
    let robots = |query: &str| {
        let answer = relay.curl_as(&session, &format!("/api/v1/robots{query}"), &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let both = wait_for("both enrolments in the log", || {
        let list = robots("");
        (list["position"] == 2).then_some(list)
    });
    let now = both["now"].as_str().expect("a time");
    // Nothing was said but in the log.
    let freshness = &both["robots"][0]["freshness"];
    for kind in ["hardware", "network", "telemetry", "deployment"] {
        assert_eq!(
            freshness[kind],
            serde_json::json!({ "stale": true }),
            "{kind}"
        );
    }
    let rejected = relay.curl_as(&session, "/api/v1/robots/kiwi-01/reject", &["-X", "POST"]);
    assert_eq!(rejected.status, 200, "{}", rejected.body);
    assert_eq!(robots("")["position"], 3);

    let standing = |list: &serde_json::Value| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let of = |robot: &serde_json::Value| {
            assert_eq!(
                robot["as_of"],
                serde_json::json!({ "position": list["position"] })
            );
            assert!(robot.get("freshness").is_none(), "{robot}");
            (text(&robot["id"]), text(&robot["registration"]["status"]))
        };
        list["robots"]
            .as_array()
            .expect("robots")
            .iter()
            .map(of)
            .collect()
    };
    let named = |robots: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = |(id, status): &(&str, &str)| ((*id).to_owned(), (*status).to_owned());
        robots.iter().map(owned).collect()
    };
    let (first, second) = (("kiwi-01", "registered"), ("kiwi-02", "registered"));
    assert_eq!(standing(&robots("?position=1")), named(&[first]));
    assert_eq!(standing(&robots("?position=2")), named(&[first, second]));
    assert_eq!(
        standing(&robots("?position=3")),
        named(&[("kiwi-01", "rejected"), second])
    );
    let then = robots(&format!("?at={now}"));
    assert_eq!(
        (&then["position"], standing(&then)),
        (&2.into(), named(&[first, second]))
    );
    let one = relay.curl_as(&session, "/api/v1/robots/kiwi-01?position=2", &[]);
    assert_eq!(one.json(), robots("?position=2")["robots"][0]);

    let begin = relay
        .curl_as(&session, "/api/v1/robots/kiwi-01/events?after=0", &[])
        .json()["events"][0]["metadata"]["received_at"]
        .clone();
    let begin = begin.as_str().expect("a time");
    for (path, expected) in [
        (
            "/api/v1/robots/kiwi-02?position=1",
            (
                404,
                "robot-unknown",
                "there was no robot kiwi-02 at position 1 of the log".to_owned(),
            ),
        ),
        (
            "/api/v1/robots?position=4",
            (
                422,
                "not-yet",
                "expected a position of the log, which goes up to 3".to_owned(),
            ),
        ),
        (
            "/api/v1/robots?at=2020-01-01T00:00:00Z",
            (
                410,
                "log-gone",
                format!("expected a moment from position 1 of the log on, which is of {begin}"),
            ),
        ),
        (
            "/api/v1/robots?at=1&position=1",
            (
                400,
                "invalid-query",
                "expected at or position, got both".to_owned(),
            ),
        ),
    ] {
        let (status, slug, detail) = relay.curl_as(&session, path, &[]).problem();
        assert_eq!((status, slug.as_str(), detail), expected, "{path}");
    }
    let future = relay.curl_as(&session, "/api/v1/robots?at=2999-01-01T00:00:00Z", &[]);
    let (status, slug, detail) = future.problem();
    assert_eq!((status, slug.as_str()), (422, "not-yet"));
    assert!(
        detail.ends_with(" or before, got 2999-01-01T00:00:00.000Z"),
        "{detail}"
    );
}
