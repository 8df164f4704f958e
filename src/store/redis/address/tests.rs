use super::*;

#[test]
fn addresses_are_shown_without_secrets() {
    for (text, shown) in [
        ("redis://cache", "cache:6379"),
        ("rediss://me:secret@cache:7000/3", "cache:7000"),
        ("redis-cluster://:secret@one,two:7000", "one:6379,two:7000"),
        ("rediss-cluster://one", "one:6379"),
    ] {
        let address: Address = text.parse().expect(text);
        assert_eq!(address.to_string(), shown);
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for text in [
        "",
        "cache:6379",
        "http://cache",
        "unix:///cache",
        "redis://",
        "redis://cache:port",
        "redis-cluster://one,,two",
    ] {
        text.parse::<Address>().expect_err(text);
    }
}
