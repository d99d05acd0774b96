//! Places in a partition as users name them.

use std::str::FromStr;

use jiff::Timestamp;

/// Where to begin or end reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Beginning,
    End,
    Offset(u64),
    /// So many records before the end.
    BeforeEnd(u64),
    /// The first record that is at least as late, milliseconds since the Unix epoch.
    Time(i64),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse::<u64>().ok();
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            _ => match text.split_at_checked(1) {
                Some(("@", time)) => parse_time(time).map(Self::Time),
                Some(("-", digits)) => number(digits).map(Self::BeforeEnd).ok_or_else(usage),
                _ => number(text).map(Self::Offset).ok_or_else(usage),
            },
        }
    }
}

fn usage() -> String {
    "it must be beginning, end, an offset, -N for N before the end, or @ with a time".to_owned()
}

/// Milliseconds since the Unix epoch, or RFC 3339.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time: Timestamp = text.parse().map_err(|_| {
        "a time is milliseconds since 1970 or RFC 3339, such as 2013-01-01T05:00:00Z".to_owned()
    })?;
    Ok(time.as_millisecond())
}

/// A time as RFC 3339; the number itself when it is out of the calendar's range.
pub(super) fn time_text(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let read = |text: &str| text.parse::<Place>().ok();
        assert_eq!(read("beginning"), Some(Place::Beginning));
        assert_eq!(read("end"), Some(Place::End));
        assert_eq!(read("0"), Some(Place::Offset(0)));
        assert_eq!(read("-5"), Some(Place::BeforeEnd(5)));
        assert_eq!(read("@1000"), Some(Place::Time(1000)));
        assert_eq!(read("@2013-01-01T05:00:00Z"), Some(Place::Time(1_357_016_400_000)));
        assert_eq!(read("@2013-01-01T05:00:00-05:00"), Some(Place::Time(1_357_034_400_000)));
        for bad in ["", "-", "@", "x", "--5", "5x", "@yesterday", "ä", "99999999999999999999"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        assert_eq!(time_text(1_357_016_400_007), "2013-01-01T05:00:00.007Z");
        assert_eq!(parse_time(&time_text(1_357_016_400_007)), Ok(1_357_016_400_007));
        assert_eq!(time_text(i64::MAX), i64::MAX.to_string());
    }
}
