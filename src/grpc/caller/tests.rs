use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), value.parse().expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn callers_are_identified_by_address_or_by_name() {
    let address = |text: &str| Some(text.parse().expect("an address"));
    let callers = Callers::new(Some(HeaderName::from_static("l5d-client-id")));
    let id = |text, pairs: &[_]| {
        callers
            .of_call(callers.peer(address(text)), &headers(pairs), Duration::MAX)
            .id
    };
    assert_eq!(id("192.0.2.1", &[]), id("192.0.2.1", &[("other", "x")]));
    assert_ne!(id("192.0.2.1", &[]), id("192.0.2.2", &[]));
    assert_eq!(id("192.0.2.1", &[]), id("::ffff:192.0.2.1", &[]));
    assert_eq!(id("2001:db8::1", &[]), id("2001:db8::ffff:1:2:3", &[]));
    assert_ne!(id("2001:db8::1", &[]), id("2001:db8:0:1::1", &[]));
    let web = [("l5d-client-id", "web.shop")];
    assert_eq!(id("192.0.2.1", &web), id("192.0.2.2", &web));
    assert_ne!(
        id("192.0.2.1", &web),
        id("192.0.2.1", &[("l5d-client-id", "cron.shop")])
    );
    let unset = Callers::new(None);
    let peer = unset.peer(address("192.0.2.1"));
    let by = |pairs: &[_]| unset.of_call(peer, &headers(pairs), Duration::MAX);
    assert_eq!(by(&web).id, by(&[]).id);
}

#[test]
fn connections_of_a_caller_are_distinguished() {
    let callers = Callers::new(None);
    let [one, other] = [(); 2].map(|()| callers.peer(None));
    let of = |peer| callers.of_call(peer, &HeaderMap::new(), Duration::from_secs(1));
    assert_eq!(
        (of(one).id, of(one).connection),
        (of(other).id, of(one).connection)
    );
    assert_ne!(of(one).connection, of(other).connection);
}
