use proptest::prelude::*;

use super::*;

const ID: &str = "UCsXVk37bltHxD1rDPwtNM8Q";

fn parsed(text: &str) -> Result<ChannelName, InvalidName> {
    text.parse()
}

fn id() -> ChannelName {
    ChannelName::Id(ID.parse().expect("an ID"))
}

fn handle(name: &str) -> ChannelName {
    ChannelName::Handle(name.into())
}

fn custom(name: &str) -> ChannelName {
    ChannelName::Custom(name.into())
}

fn user(name: &str) -> ChannelName {
    ChannelName::User(name.into())
}

fn video() -> ChannelName {
    ChannelName::Video("UZ4n1n13crI".parse().expect("an ID"))
}

#[test]
fn ids_and_lists_of_uploads_need_no_lookup() {
    for text in [
        ID,
        " UCsXVk37bltHxD1rDPwtNM8Q\n",
        "UUsXVk37bltHxD1rDPwtNM8Q",
        "UULFsXVk37bltHxD1rDPwtNM8Q",
        "UUSHsXVk37bltHxD1rDPwtNM8Q",
        "UULVsXVk37bltHxD1rDPwtNM8Q",
        "https://www.youtube.com/channel/UCsXVk37bltHxD1rDPwtNM8Q",
        "http://youtube.com/channel/UCsXVk37bltHxD1rDPwtNM8Q/videos?view=0&sort=dd#top",
        "HTTPS://M.YouTube.com/channel/UCsXVk37bltHxD1rDPwtNM8Q/featured",
        "music.youtube.com/channel/UCsXVk37bltHxD1rDPwtNM8Q",
        "//www.youtube.com/channel/UCsXVk37bltHxD1rDPwtNM8Q",
        "www.youtube.com./channel/UCsXVk37bltHxD1rDPwtNM8Q",
        "youtube.com:443//channel//UCsXVk37bltHxD1rDPwtNM8Q/",
        "/channel/UCsXVk37bltHxD1rDPwtNM8Q",
        "channel/UCsXVk37bltHxD1rDPwtNM8Q",
        "https://www.youtube.com/playlist?list=UUsXVk37bltHxD1rDPwtNM8Q",
        "https://www.youtube.com/feeds/videos.xml?channel_id=UCsXVk37bltHxD1rDPwtNM8Q",
        "https://www.youtube.com/feeds/videos.xml?playlist_id=UULFsXVk37bltHxD1rDPwtNM8Q",
    ] {
        assert_eq!(parsed(text), Ok(id()), "{text}");
    }
}

#[test]
fn handles_come_in_many_forms() {
    for text in [
        "@kurzgesagt",
        "kurzgesagt",
        "@KurzGesagt",
        "%40kurzgesagt",
        "@kurzgesagt/videos",
        "/@kurzgesagt",
        "@kurzgesagt?si=AbC",
        "https://www.youtube.com/@kurzgesagt",
        "https://youtube.com/@kurzgesagt?si=AbC-1",
        "youtube.com/%40kurzgesagt/shorts",
        "m.youtube.com/@kurzgesagt/streams#x",
        "http://www.youtube.com/@kurzgesagt/",
    ] {
        assert_eq!(parsed(text), Ok(handle("kurzgesagt")), "{text}");
    }
    for text in [
        "@あいう.え",
        "あいう.え",
        "@%E3%81%82%E3%81%84%E3%81%86.%E3%81%88",
        "https://www.youtube.com/@%E3%81%82%E3%81%84%E3%81%86.%E3%81%88",
        "https://www.youtube.com/@あいう.え/videos",
    ] {
        assert_eq!(parsed(text), Ok(handle("あいう.え")), "{text}");
    }
    // A virama, which is no letter; a middle dot.
    for name in ["हिन्दी", "pau·casals", "a-b_c.d", "é", "uc", "uuabc", "user"] {
        assert_eq!(parsed(name), Ok(handle(name)), "{name}");
    }
    // It has eleven characters, as a video ID has; an address says which is meant.
    assert_eq!(parsed("veritasium1"), Ok(handle("veritasium1")));
    // With its @ it is a handle, whatever it looks like; and so is what has other characters than an ID, or far fewer.
    for name in [
        "@UCsXVk37bltHxD1rDPwtNM8R",
        "@UCLA",
        "UCLA",
        "UCsXVk37bltHxD1rDPwt",
        "UC.Berkeley",
        "UCé",
    ] {
        let expected = name.trim_start_matches('@').to_ascii_lowercase();
        assert_eq!(parsed(name), Ok(handle(&expected)), "{name}");
    }
}

#[test]
fn legacy_names_keep_their_case() {
    assert_eq!(
        parsed("https://www.youtube.com/user/SciShow/about"),
        Ok(user("SciShow"))
    );
    assert_eq!(parsed("user/SciShow"), Ok(user("SciShow")));
    assert_eq!(
        parsed("https://www.youtube.com/feeds/videos.xml?user=SciShow"),
        Ok(user("SciShow"))
    );
    assert_eq!(
        parsed("https://www.youtube.com/c/inanutshell"),
        Ok(custom("inanutshell"))
    );
    assert_eq!(parsed("c/%C3%9Cber"), Ok(custom("Über")));
    assert_eq!(parsed("https://www.youtube.com/SciShow"), Ok(custom("SciShow")));
    assert_eq!(parsed("youtube.com/SciShow/videos"), Ok(custom("SciShow")));
}

#[test]
fn a_video_stands_for_its_channel() {
    for text in [
        "https://www.youtube.com/watch?v=UZ4n1n13crI",
        "https://www.youtube.com/watch?list=PLabc&v=UZ4n1n13crI&t=1s",
        "youtu.be/UZ4n1n13crI?si=x",
        "https://youtu.be/UZ4n1n13crI",
        "https://m.youtube.com/shorts/UZ4n1n13crI",
        "https://www.youtube.com/live/UZ4n1n13crI?feature=share",
        "https://www.youtube-nocookie.com/embed/UZ4n1n13crI",
        "https://music.youtube.com/watch?v=UZ4n1n13crI",
        "watch?v=UZ4n1n13crI",
        "/shorts/UZ4n1n13crI",
    ] {
        assert_eq!(parsed(text), Ok(video()), "{text}");
    }
}

#[test]
fn what_names_no_channel_is_answered_with_advice() {
    use InvalidName::{Id, IdLength, Length, Name, NoChannel, NotYouTube, Playlist, Video};
    for (text, expected) in [
        ("", Length),
        (" \n", Length),
        (&*"x".repeat(MAX_QUERY + 1), Length),
        (&*"x".repeat(MAX_NAME + 1), Name),
        ("@", Name),
        ("@..", Name),
        ("https://www.youtube.com/@", Name),
        ("https://www.youtube.com/c/%2E%2E", NoChannel),
        ("two words", Name),
        ("@a%2Fb", Name),
        ("@%FF", Name),
        ("@a\u{202e}b", Name),
        ("somebody@mail.example", Name),
        ("https://example.com/@kurzgesagt", NotYouTube),
        ("https://youtube.com.example/@kurzgesagt", NotYouTube),
        ("https://notyoutube.com/@kurzgesagt", NotYouTube),
        ("https://youtube.com@example.com/@kurzgesagt", NotYouTube),
        ("ftp://youtube.com/@kurzgesagt", NotYouTube),
        ("://", NotYouTube),
        ("https://", NotYouTube),
        ("example.com/@kurzgesagt", NoChannel),
        ("https://www.youtube.com", NoChannel),
        ("youtube.com", NoChannel),
        ("youtu.be", NoChannel),
        ("https://www.youtube.com/results?search_query=x", NoChannel),
        ("https://www.youtube.com/feed/subscriptions", NoChannel),
        ("kurzgesagt/videos", NoChannel),
        ("https://www.youtube.com/watch", Video),
        ("https://www.youtube.com/watch?v=UZ4n1n13cr", Video),
        ("youtu.be/UZ4n1n13cr", Video),
        ("https://www.youtube.com/playlist?list=PLabc", Playlist),
        ("https://www.youtube.com/playlist", Playlist),
        (
            "UCsXVk37bltHxD1rDPwtNM8R",
            Id(InvalidChannelId::LastCharacter('R')),
        ),
        ("UCsXVk37bltHxD1rDPwtNM8", IdLength(23)),
        (" UCsXVk37bltHxD1rDPwtNM8Qx", IdLength(25)),
        ("UCsXVk37bltHxD1rDPwtN", IdLength(21)),
        ("UCsXVk37bltHxD1rDPwtNM8Qxyz", IdLength(27)),
        ("youtube.com/channel/UCsXVk", Id(InvalidChannelId::Length(6))),
        ("youtube.com/channel/@kurzgesagt", Id(InvalidChannelId::Handle)),
    ] {
        assert_eq!(parsed(text), Err(expected), "{text:?}");
    }
}

/// Texts of the pieces that names have.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("https://".to_owned()),
        "(www\\.|m\\.|music\\.)?(youtube\\.com|youtu\\.be)",
        "/(channel|user|c|watch|shorts|live|embed|playlist|feeds|videos\\.xml)?",
        "[?&#](v|list|channel_id|user|playlist_id)=",
        Just(ID.to_owned()),
        Just("UZ4n1n13crI".to_owned()),
        "(UC|UU|UULF|@|%40|%2E|%2F|\\.\\.)",
        "[a-zA-Z0-9_.-]{1,12}",
        "\\PC{1,4}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    /// What must hold of any text is what the fuzzer checks.
    #[test]
    fn any_text_is_a_name_or_a_mistake(text in any_text()) {
        fuzzing::channel_name(text.as_bytes());
    }

    #[test]
    fn an_address_means_the_same_however_it_is_written(
        scheme in "(https://|http://|//)?",
        host in "(www\\.|m\\.|music\\.)?youtube\\.com",
        path in "(/channel/UCsXVk37bltHxD1rDPwtNM8Q|/@Kurz\\.Gesagt|/user/SciShow|/c/nut|/shorts/UZ4n1n13crI)",
        tab in "(/videos|/featured|/)?",
        end in "(\\?si=a%20b&v=x)?(#t)?",
    ) {
        let name = parsed(&path).expect("a name");
        prop_assert_eq!(parsed(&format!("{scheme}{host}{path}{tab}{end}")), Ok(name));
    }
}
