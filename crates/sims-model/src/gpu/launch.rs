//! Programs, and what it takes to start one of their kernels.

use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::Result;

/// What every program starts with.
const PRELUDE: &str = include_str!("kernels/prelude.cu");

/// The source of some kernels, specialised by definitions.
#[derive(Debug, Clone)]
pub struct Program {
    name: &'static str,
    source: String,
    fuses: bool,
    id: u64,
}

impl Program {
    /// Joins definitions, the text that all kernels share, and the kernels' own.
    ///
    /// `fuses` lets the compiler join a multiplication and an addition into one operation.
    pub fn new(name: &'static str, text: &str, definitions: &[(&str, usize)], fuses: bool) -> Self {
        let definitions: String = definitions
            .iter()
            .map(|(name, value)| format!("#define {name} {value}\n"))
            .collect();
        let source = format!("{definitions}{PRELUDE}{text}");
        let mut hasher = DefaultHasher::new();
        (&source, fuses).hash(&mut hasher);
        Self {
            name,
            source,
            fuses,
            id: hasher.finish(),
        }
    }

    /// Returns what messages call the program.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the whole source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns whether multiplications and additions may be fused.
    pub fn fuses(&self) -> bool {
        self.fuses
    }

    /// Returns a number that stands for the source within this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the names of the kernels.
    pub fn functions(&self) -> Vec<&str> {
        let after_mark = self.source.split("extern \"C\" __global__ void").skip(1);
        after_mark
            .filter_map(|text| {
                let head = text.split_once("(\n")?.0;
                head.rsplit(' ').next()
            })
            .collect()
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// The address of memory on the device; 0 for none.
    Address(u64),
    /// An `int`.
    Int(i32),
    /// A `long long`.
    Long(i64),
    /// A `float`.
    Float(f32),
    /// A `double`.
    Double(f64),
}

impl Argument {
    /// Returns where the value lies, as launches take it.
    pub fn as_ptr(&self) -> *const c_void {
        match self {
            Self::Address(value) => std::ptr::from_ref(value).cast(),
            Self::Int(value) => std::ptr::from_ref(value).cast(),
            Self::Long(value) => std::ptr::from_ref(value).cast(),
            Self::Float(value) => std::ptr::from_ref(value).cast(),
            Self::Double(value) => std::ptr::from_ref(value).cast(),
        }
    }

    /// Returns a size as an `int`.
    pub fn int(value: usize) -> Self {
        Self::Int(i32::try_from(value).expect("sizes of a batch fit an int"))
    }
}

/// One kernel to be started.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The program that has the kernel.
    pub program: &'a Program,
    /// The kernel's name.
    pub function: &'static str,
    /// Number of blocks in each dimension.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub threads: u32,
    /// The arguments in the order of the kernel's parameters.
    pub arguments: &'a [Argument],
}

/// Starts kernels on one device.
pub trait Launcher: Send + Sync {
    /// Starts a kernel, or queues it behind what was started before.
    ///
    /// # Safety
    /// The arguments must be what the kernel expects, and the memory they point to must live until it has run, or be
    /// given back in the order of the launches.
    ///
    /// # Errors
    /// A program that does not compile, or a device that does not take it.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_the_source() {
        let text = "extern \"C\" __global__ void __launch_bounds__(32) first(\n    int x) {}\n\
                    extern \"C\" __global__ void second(\n    int x) {}\n";
        let program = Program::new("test", text, &[("WIDTH", 4)], true);
        assert_eq!(program.functions(), ["first", "second"]);
        assert!(program.source().starts_with("#define WIDTH 4\n//"));
    }

    #[test]
    fn programs_differ_by_definition_and_flag() {
        let program = |width, fuses| Program::new("test", "", &[("WIDTH", width)], fuses).id();
        assert_eq!(program(1, true), program(1, true));
        assert_ne!(program(1, true), program(2, true));
        assert_ne!(program(1, true), program(1, false));
    }
}
