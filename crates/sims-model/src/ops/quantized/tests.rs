use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

use super::*;
use crate::Dtype;
use crate::ops::linear::PackedLinear;
use crate::weights::Projection;

/// Numbers from -1 to 1 that no format stores exactly.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Stores random weights in `format`, as the tensor library does.
fn matrix(format: BlockFormat, rows: usize, columns: usize, order: RowOrder) -> BlockMatrix {
    let weights = numbers(rows * columns, 7 + rows as u32);
    let tensor = Tensor::from_vec(weights, (rows, columns), &Device::Cpu).expect("a matrix");
    let stored = QTensor::quantize(&tensor, format.dtype()).expect("stored");
    // The file's header ends somewhere, and what follows it is aligned.
    let mut bytes = vec![0; 32];
    bytes.extend_from_slice(&stored.data().expect("on the CPU"));
    let range = 32..bytes.len();
    BlockMatrix::new(Arc::new(bytes), range, format, [rows, columns], order).expect("valid")
}

/// A layer of three parts, none a whole number of panels, and the same layer unpacked.
fn layers(formats: [BlockFormat; 3], columns: usize) -> (QuantizedLinear, PackedLinear) {
    let orders = [
        RowOrder::Interleaved { head_dim: 8 },
        RowOrder::Same,
        RowOrder::Same,
    ];
    let rows = [72, 8, 95];
    let parts: Vec<_> = (0..3)
        .map(|i| matrix(formats[i], rows[i], columns, orders[i]))
        .collect();
    let bias: Vec<_> = (0..175).map(|i| i as f32 * 0.1).collect();
    let dense = Projection {
        out_features: 175,
        in_features: columns,
        weight: parts.iter().flat_map(BlockMatrix::unpack).collect(),
        bias: Some(bias.clone()),
    };
    (
        QuantizedLinear::new(parts, Some(bias)),
        PackedLinear::pack(dense, Dtype::F32),
    )
}

#[test]
fn the_product_is_bit_by_bit_that_of_the_unpacked_weights() {
    let formats: Vec<_> = BlockFormat::all().collect();
    for (i, &format) in formats.iter().enumerate() {
        // Neighbours of another format, where the rows are whole blocks of theirs too.
        let columns = if format.block_len() == 256 { 768 } else { 288 };
        let beside = formats[(i + 5) % formats.len()];
        let beside = if columns % beside.block_len() == 0 {
            beside
        } else {
            format
        };
        let (layer, dense) = layers([format, beside, format], columns);
        let x = numbers(17 * columns, 3);
        for (set, write) in InstructionSet::available()
            .into_iter()
            .flat_map(|set| [(set, Write::Store), (set, Write::Add)])
        {
            let mut expected = vec![1.5; 17 * 175];
            dense.forward(set, &x, &mut expected, write, Spread::OneThread);
            for spread in [Spread::OneThread, Spread::AllThreads] {
                let mut found = vec![1.5; 17 * 175];
                layer.forward(set, &x, &mut found, write, spread);
                assert_eq!(found, expected, "{format}, {}, {write:?}", set.name());
            }
            for rows in 1..8 {
                let mut found = vec![1.5; rows * 175];
                let x = &x[5 * columns..(5 + rows) * columns];
                layer.forward(set, x, &mut found, write, Spread::OneThread);
                assert_eq!(found, expected[5 * 175..(5 + rows) * 175], "{rows} rows");
            }
        }
    }
}

#[test]
fn interleaved_rows_are_those_of_both_halves_in_turn() {
    let order = RowOrder::Interleaved { head_dim: 6 };
    let stored: Vec<_> = (0..12).map(|row| order.stored(row)).collect();
    assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    let format = BlockFormat::of_number(8).expect("Q8_0");
    let (same, turned) = (
        matrix(format, 12, 64, RowOrder::Same),
        matrix(format, 12, 64, order),
    );
    let (same, found) = (same.unpack(), turned.unpack());
    for (row, stored) in stored.into_iter().enumerate() {
        assert_eq!(found[row * 64..][..64], same[stored * 64..][..64]);
    }
    let mut unpacked = vec![0.0; found.len()];
    format.unpack(&turned.blocks_in_order(), &mut unpacked);
    assert_eq!(unpacked, found);
}

#[test]
fn a_matrix_that_its_bytes_are_not_is_refused() {
    let format = BlockFormat::of_number(12).expect("Q4_K");
    let make = |bytes: Vec<u8>, range, shape, order| {
        BlockMatrix::new(Arc::new(bytes), range, format, shape, order)
            .err()
            .expect("refused")
    };
    let error = make(vec![0; 288], 0..288, [2, 250], RowOrder::Same);
    assert_eq!(
        error,
        "has rows of 250, which Q4_K does not store: its blocks are 256"
    );
    for range in [0..144, 144..432, 300..588] {
        let error = make(vec![0; 400], range, [2, 256], RowOrder::Same);
        assert_eq!(error, "is not within the file");
    }
    let error = make(vec![0; 400], 2..290, [2, 256], RowOrder::Same);
    assert_eq!(error, "does not start at a multiple of 4 bytes");
    let order = RowOrder::Interleaved { head_dim: 4 };
    let error = make(vec![0; 288], 0..288, [2, 256], order);
    assert_eq!(error, "has 2 rows, which are not whole heads of 4");
    let mut bytes = vec![0; 288];
    bytes[145] = 0x7c; // the second block's scale is infinite
    let error = make(bytes, 0..288, [2, 256], RowOrder::Same);
    assert_eq!(error, "is NaN or infinite at element 256");
}
