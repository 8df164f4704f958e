use super::*;

fn arguments(text: &str) -> Vec<String> {
    let (entries, wrong) = entries(text);
    assert_eq!(wrong, []);
    entries.iter().flat_map(Entry::arguments).collect()
}

#[test]
fn each_setting_becomes_a_flag() {
    let text = "# mine\nlisten = \"[::]:3779\"\nworkers = 4\nupstream-rate = 0.5\ngrpc-web = true\n\
                admin-host = [\"a.example\", \"b.example\"]\nfallback-upstream = \"https://m.example/f\"\n";
    let expected = [
        "--listen=[::]:3779",
        "--workers=4",
        "--upstream-rate=0.5",
        "--grpc-web",
        "--admin-host=a.example",
        "--admin-host=b.example",
        "--fallback-upstream=https://m.example/f",
    ];
    assert_eq!(arguments(text), expected);
    assert_eq!(
        arguments("grpc-web = false\nadmin-host = []"),
        Vec::<String>::new()
    );
    // Whether there is a certificate can be said elsewhere.
    assert_eq!(arguments("tls-key = \"key.pem\""), ["--tls-key=key.pem"]);
}

#[test]
fn all_mistakes_are_told_with_line_and_key() {
    let text = "fresh-for = 60\n\nfreshfor = \"60s\"\nworkers = true\ngrpc-web = \"yes\"\nconfig = \"x\"\n\
                listen = [\"127.0.0.1:1\"]\nlog-format = \"xml\"\n[table]\n";
    let (_, wrong) = entries(text);
    let expected = [
        (1, "fresh-for: invalid value '60'"),
        (3, "freshfor: no such setting; is it fresh-for?"),
        (4, "workers: expected a text or a number"),
        (5, "grpc-web: expected true or false"),
        (6, "config: no such setting"),
        (7, "listen: expected a text or a number"),
        (8, "log-format: invalid value 'xml'"),
        (9, "table: no such setting"),
    ];
    assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
    for ((line, what), (expected_line, part)) in wrong.iter().zip(expected) {
        assert!(
            *line == expected_line && what.contains(part),
            "{line}: {what} is not {part}"
        );
    }
    assert!(
        wrong[0].1.contains("a duration with its unit") && wrong[6].1.contains("pretty, tree, json"),
        "{wrong:?}"
    );
}

#[test]
fn no_mistake_tells_a_password() {
    for text in [
        "store = \"redsi://me:secret@cache\"",
        "store = \"redis://me:secret@cache",
        "store = redis://me:secret@cache",
        "store = [\"redis://me:secret@cache\"]",
    ] {
        let (_, wrong) = entries(text);
        assert!(
            wrong.len() == 1 && wrong[0].0 == 1 && !wrong[0].1.contains("secret"),
            "{wrong:?}"
        );
    }
}

#[test]
fn what_is_right_is_known_also_if_there_are_mistakes() {
    for mistake in ["freshfor = 1", "fresh-for = 60s", "fresh-for = \"60s", "= 1", "["] {
        for text in [
            format!("log-format = \"json\"\n{mistake}\n"),
            format!("{mistake}\nlog-format = \"json\"\n"),
        ] {
            let (entries, wrong) = entries(&text);
            assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
            // After a [ it would belong to a table.
            if !text.starts_with('[') {
                let mut arguments = entries.iter().flat_map(Entry::arguments);
                assert!(
                    arguments.any(|argument| argument == "--log-format=json"),
                    "{text}"
                );
            }
        }
    }
}
