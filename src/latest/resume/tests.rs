use super::*;

const CHANNEL: &str = "UC0123456789abcdefghijkA";

fn token(uploads: u64) -> ResumeToken {
    ResumeToken {
        channel: fingerprint(CHANNEL.as_bytes()),
        phase: Phase::Begun,
        problem: Some(7),
        floor: Moment::from_nanos(-1),
        entries: (0..uploads)
            .map(|upload| Entry {
                name: short_name(fingerprint(&upload.to_be_bytes())),
                fate: Fate::Below,
                published: published(u8::try_from(upload).expect("few"), Moment::from_nanos(0)),
            })
            .collect(),
    }
}

#[test]
fn a_decoded_date_is_not_earlier_and_at_most_a_minute_or_a_fourteenth_later() {
    let newest = Moment::from_nanos(1_800_000_000_000_000_000);
    let second = Duration::from_secs(1);
    for age in [0, 1, 59, 60, 61, 3600, 86_400, 700_000, 31_536_000, 600_000_000] {
        let date = newest.before(second * age);
        let back = published(age_byte(date, newest), newest);
        let latest = newest.before(second * (age - (age / 14).max(60).min(age)));
        assert!(back >= date && back <= latest, "{age} s");
    }
    assert_eq!(published(age_byte(Moment::NONE, newest), newest), Moment::NONE);
    assert_eq!(
        published(age_byte(newest, Moment::NONE), newest),
        newest,
        "newer than the newest"
    );
    // Older than anything: as old as there is.
    let back = published(age_byte(newest.before(Duration::MAX), newest), newest);
    assert!(back.is_some() && back < newest);
}

#[test]
fn a_token_has_at_most_128_bytes_and_round_trips() {
    for (uploads, length) in [(0, 28), (1, 33), (MOST as u64, 128)] {
        let bytes = token(uploads).encode();
        assert_eq!(bytes.len(), length);
        assert_eq!(ResumeToken::decode(&bytes), Ok(token(uploads)));
    }
    for phase in [Phase::Newest, Phase::After, Phase::Empty] {
        let begun = ResumeToken { phase, ..token(0) };
        assert_eq!(ResumeToken::decode(&begun.encode()), Ok(begun));
    }
    assert!(token(3).is_of(CHANNEL.parse().expect("valid")));
    assert!(!token(3).is_of("UCquiet6789abcdefghijkkA".parse().expect("valid")));
}

#[test]
fn a_fingerprint_never_changes() {
    // Tokens of earlier releases are still in use.
    assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    let bytes = token(1).encode();
    assert_eq!(&bytes[..2], [0x10, 0xe1]);
}

#[test]
fn bytes_that_are_not_a_token_are_refused() {
    let bytes = token(MOST as u64).encode();
    for length in 0..bytes.len() {
        assert_eq!(ResumeToken::decode(&bytes[..length]), Err(InvalidResumeToken));
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(ResumeToken::decode(&longer), Err(InvalidResumeToken));
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        assert_eq!(ResumeToken::decode(&changed), Err(InvalidResumeToken), "{place}");
    }
    // A later version, though its checksum is right.
    let mut later = bytes[..bytes.len() - CHECK].to_vec();
    later[0] = 0x20;
    later.extend(checksum(&later));
    assert_eq!(ResumeToken::decode(&later), Err(InvalidResumeToken));
}
