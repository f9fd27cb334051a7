//! What the tests of the ops share: seeded inputs and comparisons of values and gradients.

use candle_core::{Device, Result, Shape, Tensor, Var};

use super::init::Normal;

/// Returns a variable of standard normal numbers.
pub(super) fn random_var(shape: impl Into<Shape>, seed: u64) -> Result<Var> {
    let shape = shape.into();
    let mut normal = Normal::new(seed);
    let data: Vec<f32> = (0..shape.elem_count())
        .map(|_| normal.sample() as f32)
        .collect();
    Var::from_vec(data, shape, &Device::Cpu)
}

/// Fails unless all elements agree within `tolerance`.
pub(super) fn assert_close(a: &Tensor, b: &Tensor, tolerance: f32) -> Result<()> {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(
        difference <= tolerance,
        "difference {difference:e} above {tolerance:e}"
    );
    Ok(())
}

/// Fails unless the gradients of the sums of `a` and of `b` agree for every variable.
pub(super) fn assert_same_gradients(
    a: &Tensor,
    b: &Tensor,
    vars: &[&Var],
    tolerance: f32,
) -> Result<()> {
    let (a, b) = (a.sum_all()?.backward()?, b.sum_all()?.backward()?);
    for var in vars {
        let (a, b) = (a.get(var.as_tensor()), b.get(var.as_tensor()));
        assert_close(
            a.expect("gradient of the op"),
            b.expect("plain gradient"),
            tolerance,
        )?;
    }
    Ok(())
}
