//! Relative positions: near distances each have an embedding, farther ones share it by their logarithm.

/// Sorts distances into buckets as `make_log_bucket_position` of transformers does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets {
    /// Buckets to one side; half of them hold one distance each.
    pub(super) size: usize,
    /// The distance that reaches the last bucket.
    pub(super) max_distance: usize,
}

impl Buckets {
    /// Returns the bucket of a distance, negative to the right; it may lie beyond the last one.
    fn of(self, distance: i64) -> i64 {
        let middle = (self.size / 2) as i64;
        if distance.abs() <= middle {
            return distance;
        }
        // In single precision, as the original: where the ceiling falls decides the bucket.
        let times = |distance: f32| (distance / middle as f32).ln();
        let share = times(distance.unsigned_abs() as f32) / times((self.max_distance - 1) as f32);
        let steps = (share * (middle - 1) as f32).ceil() as i64;
        distance.signum() * (steps + middle)
    }

    /// Returns the row of the embeddings, `[2 * size]`, for each pair of a query and a key of a sequence.
    ///
    /// The result is `[tokens, tokens]`, queries first.
    pub(super) fn rows(self, tokens: usize) -> Vec<u32> {
        let size = self.size as i64;
        let tokens = tokens as i64;
        let row = |distance| (self.of(distance) + size).clamp(0, 2 * size - 1) as u32;
        let of_distance: Vec<u32> = (1 - tokens..tokens).map(row).collect();
        (0..tokens)
            .flat_map(|query| (0..tokens).map(move |key| query - key + tokens - 1))
            .map(|index| of_distance[index as usize])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_transformers() {
        let expected = include_str!("../../tests/fixtures/pairrm/expected.json");
        let expected: serde_json::Value = serde_json::from_str(expected).expect("valid");
        for (size, max_distance) in [(256, 512), (8, 64)] {
            let buckets = Buckets { size, max_distance };
            let table = expected["buckets"][format!("{size} {max_distance}")].as_array();
            let table = table.expect("a table");
            assert_eq!(table.len(), 2048);
            for (distance, bucket) in table.iter().enumerate() {
                let bucket = bucket.as_i64().expect("a number");
                assert_eq!(buckets.of(distance as i64), bucket, "{distance}");
                assert_eq!(buckets.of(-(distance as i64)), -bucket, "{distance}");
            }
        }
    }

    #[test]
    fn rows_stay_within_the_embeddings() {
        let buckets = Buckets {
            size: 4,
            max_distance: 6,
        };
        let rows = buckets.rows(3);
        assert_eq!(rows, [4, 3, 2, 5, 4, 3, 6, 5, 4]);
        let far = buckets.rows(40);
        assert_eq!((far[39], far[39 * 40]), (0, 7));
    }
}
