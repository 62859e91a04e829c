//! When an agent or a mission is looked at again: `review_every`, `overdue`, `dormant`, `drift`.

use super::reader::Reader;
use super::values;
use crate::agents::Terms;
use crate::policy::Drift;
use std::ops::RangeInclusive;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A second, so that a test environment can try it out; ten years.
const BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3650 * 86_400);

/// `dormant` is an agent's alone.
pub(in crate::config) fn terms(reader: &Reader<'_>, defaults: Terms) -> Terms {
    let every = reader.duration("review_every", BOUNDS);
    let grace = overdue(reader);
    let dormant = defaults.dormant.is_some();
    let dormant = dormant
        .then(|| reader.duration("dormant", BOUNDS))
        .flatten();
    Terms {
        review_every: every.map_or(defaults.review_every, |every| long(every.value)),
        grace: grace.map_or(defaults.grace, long),
        dormant: dormant.map_or(defaults.dormant, |dormant| Some(long(dormant.value))),
    }
}

/// `"warn 14d, then refuse"`, or `"refuse"`.
fn overdue(reader: &Reader<'_>) -> Option<Duration> {
    let text = reader.text("overdue")?;
    let told = text.value.trim();
    let grace = match told {
        "refuse" => Some(Duration::ZERO),
        _ => told
            .strip_prefix("warn ")
            .and_then(|rest| rest.strip_suffix(", then refuse"))
            .and_then(values::duration)
            .filter(|grace| *grace <= DAY * 365),
    };
    if grace.is_none() {
        let message = format!("`{told}` does not say what becomes of an overdue review");
        let help = "write `\"warn 14d, then refuse\"`, up to 365d, or `\"refuse\"`";
        reader.bad(text.at, message, help);
    }
    grace
}

/// `{ count = 10, within = "1h", do = "alarm" }`.
pub(in crate::config) fn drift(reader: &Reader<'_>) -> Drift {
    let defaults = Drift::default();
    let Some(table) = reader.table("drift") else {
        return defaults;
    };
    let count = table.number("count", 1..=1000);
    let within = table.duration("within", Duration::from_secs(1)..=DAY);
    let what = table.choice("do", &["alarm", "suspend"]);
    table.finish();
    Drift {
        count: count
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(defaults.count),
        within: within.map_or(defaults.within, |within| within.value),
        suspends: what == Some("suspend"),
    }
}

/// The bounds keep it far from where that ends.
fn long(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}
