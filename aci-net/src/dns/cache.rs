//! Answers of other servers, for as long as they may be kept.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

/// The most answers that are kept.
const ANSWERS: usize = 1_024;
/// The longest that any is kept, in seconds.
const LONGEST: u32 = 300;
/// The longest that "there is none" is kept, in seconds.
const LONGEST_NONE: u32 = 60;

/// What a question is told by: name in lower case, type, whether signatures are wanted, whether
/// checking is disabled.
pub(super) type Key = (String, RecordType, bool, bool);

#[derive(Debug)]
struct Kept {
    answer: Message,
    since: Instant,
    until: Instant,
}

/// The answers; the oldest makes room for the newest.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
    order: VecDeque<Key>,
}

impl Cache {
    /// A kept answer with what is left of its times to live.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        let age = now.saturating_duration_since(kept.since).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        for record in records(&mut answer) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Keeps an answer, if it may be kept.
    pub(super) fn put(&mut self, key: Key, answer: &Message, now: Instant) {
        let Some(seconds) = lifetime(answer).filter(|s| *s > 0) else {
            return;
        };
        let kept = Kept {
            answer: answer.clone(),
            since: now,
            until: now + Duration::from_secs(seconds.into()),
        };
        if self.kept.insert(key.clone(), kept).is_none() {
            self.order.push_back(key);
        }
        while self.kept.len() > ANSWERS {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.kept.remove(&oldest);
        }
    }
}

fn records(answer: &mut Message) -> impl Iterator<Item = &mut Record> {
    answer
        .answers
        .iter_mut()
        .chain(&mut answer.authorities)
        .chain(&mut answer.additionals)
}

/// For how many seconds an answer may be kept (RFC 2308); `None`: not at all.
fn lifetime(answer: &Message) -> Option<u32> {
    let known = matches!(
        answer.metadata.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    );
    if !known || answer.metadata.truncation {
        return None;
    }
    let least = answer
        .answers
        .iter()
        .chain(&answer.authorities)
        .map(|r| r.ttl)
        .min();
    let none = answer.metadata.response_code == ResponseCode::NXDomain || answer.answers.is_empty();
    if none {
        let minimum = answer.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(soa.minimum),
            _ => None,
        })?;
        return Some(least?.min(minimum).min(LONGEST_NONE));
    }
    Some(least?.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    fn key(i: u32) -> Key {
        (format!("{i}.example"), RecordType::A, false, false)
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let data = RData::A(A([192, 0, 2, 1].into()));
        message.add_answer(Record::from_rdata(Name::root(), ttl, data));
        message
    }

    #[test]
    fn answers_live_as_long_as_they_say_and_no_longer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        cache.put(key(1), &answer(10), now);
        cache.put(key(2), &answer(0), now);
        cache.put(key(3), &answer(86_400), now);
        assert_eq!(cache.get(&key(1), at(4)).unwrap().answers[0].ttl, 6);
        assert!(cache.get(&key(1), at(10)).is_none());
        assert!(cache.get(&key(2), now).is_none());
        assert!(cache.get(&key(3), at(299)).is_some());
        assert!(cache.get(&key(3), at(300)).is_none());
    }

    #[test]
    fn failures_are_not_kept_and_absence_is_for_a_minute() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let mut none = answer(10);
        none.answers.clear();
        none.metadata.response_code = ResponseCode::NXDomain;
        cache.put(key(1), &none, now);
        assert!(
            cache.get(&key(1), now).is_none(),
            "nobody said for how long"
        );
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 3600);
        none.add_authority(Record::from_rdata(Name::root(), 3600, RData::SOA(soa)));
        cache.put(key(1), &none, now);
        assert!(cache.get(&key(1), now + Duration::from_secs(59)).is_some());
        assert!(cache.get(&key(1), now + Duration::from_secs(60)).is_none());
        let mut failed = answer(10);
        failed.metadata.response_code = ResponseCode::ServFail;
        cache.put(key(2), &failed, now);
        assert!(cache.get(&key(2), now).is_none());
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for i in 0..3_000 {
            cache.put(key(i), &answer(60), now);
        }
        assert_eq!((cache.kept.len(), cache.order.len()), (ANSWERS, ANSWERS));
        assert!(cache.get(&key(2_999), now).is_some());
        assert!(cache.get(&key(0), now).is_none());
    }
}
