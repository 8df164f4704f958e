use std::time::{Duration, SystemTime};

use proptest::{option, prelude::*};

use super::*;
use crate::{
    grpc::{json, status},
    latest::LookupError,
    proto::{
        self,
        v1::{BatchGetLatestVideosResponse, LookupResult, lookup_result::Outcome},
    },
    video::{Channel, Kind, Thumbnail, Upload as Listed},
};

/// Within 292 years before and after 1970, to the second, or a thousandth, millionth or billionth of it.
fn time() -> impl Strategy<Value = SystemTime> {
    (any::<i64>(), 0..=3_u32).prop_map(|(nanos, places)| {
        let unit = 1000_i64.pow(places);
        let nanos = nanos / unit * unit;
        let apart = Duration::from_nanos(nanos.unsigned_abs());
        match nanos {
            0.. => SystemTime::UNIX_EPOCH + apart,
            _ => SystemTime::UNIX_EPOCH - apart,
        }
    })
}

fn thumbnail() -> impl Strategy<Value = Thumbnail> {
    let url = prop_oneof![
        "https://i[0-9]\\.ytimg\\.com/vi/0123456789A/hqdefault\\.jpg",
        ".{0,300}"
    ];
    (url, any::<u32>(), any::<u32>()).prop_map(|(url, width, height)| Thumbnail { url, width, height })
}

fn upload() -> impl Strategy<Value = Listed> {
    (
        prop_oneof![Just(Kind::Video), Just(Kind::Short)],
        ".{0,300}",
        option::of(time()),
        option::of(time()),
        option::of(thumbnail()),
        option::of(any::<u64>()),
    )
        .prop_map(|(kind, title, published, updated, thumbnail, views)| Listed {
            id: "0123456789A".parse().expect("a video ID"),
            kind,
            title,
            published,
            updated,
            thumbnail,
            views,
        })
}

fn response(answer: &Answer) -> GetLatestVideoResponse {
    GetLatestVideoResponse {
        video: Some(convert::video(answer.channel(), answer.video())),
        freshness: Some(convert::freshness(answer)),
    }
}

proptest! {
    #[test]
    fn an_answer_is_written_as_its_message(
        title in ".{0,300}",
        upload in upload(),
        fetched in time(),
        later in time(),
        stale: bool,
    ) {
        let id = "UC0123456789abcdefghijkA".parse().expect("a channel ID");
        let answer = Answer::made_up(Channel::new(id, &title, vec![upload.clone()]), fetched, stale);
        let mut written = vec![];
        encode(&answer, &mut written);
        let message = response(&answer);
        prop_assert_eq!(written, message.encode_to_vec());
        let json = proto::to_json("GetLatestVideoResponse", &message);
        let (written, tag) = json::answer::to_json(&answer);
        prop_assert_eq!(written, (json.expect("JSON") + "\n").into_bytes());
        // How fresh it is is not part of the tag; the rest is.
        let with = |title, fetched, stale| {
            let channel = Channel::new(id, title, vec![upload.clone()]);
            json::answer::to_json(&Answer::made_up(channel, fetched, stale)).1
        };
        prop_assert_eq!(&with(&title, later, !stale), &tag);
        prop_assert_ne!(&with("another title", fetched, stale), &tag);

        let error = LookupError::ChannelNotFound(id);
        let outcomes = [("", Err(&error)), ("one", Ok(&answer)), (&title, Err(&error))];
        let batch = outcomes.map(|(id, outcome)| BatchItem {
            channel_id: id.into(),
            outcome: outcome.cloned().map_err(|error| status::lookup_failure(&error.clone().into(), None)),
        });
        let results = outcomes.map(|(id, outcome)| LookupResult {
            channel_id: id.into(),
            outcome: Some(match outcome {
                Ok(answer) => Outcome::Found(response(answer)),
                Err(error) => Outcome::Failure(status::lookup_failure(&error.clone().into(), None)),
            }),
        });
        let mut written = vec![];
        encode_batch(&batch, &mut written);
        let message = BatchGetLatestVideosResponse { results: results.into() };
        prop_assert_eq!(written, message.encode_to_vec());
    }
}
