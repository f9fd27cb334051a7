//! Runs the CUDA kernels on the CPU: their sources, compiled as C++ after a shim that stands in for CUDA's names.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use sims_model::gpu::{Launch, Launcher, Program};
use sims_model::{ModelError, Result};
use tempfile::TempDir;

const SHIM: &str = include_str!("emulator/shim.hpp");

/// A kernel's entry: its arguments, the grid, the threads of a block, and whether they run in descending order.
type Entry = unsafe extern "C" fn(*const *const c_void, *const c_uint, c_int, c_int);

/// Starts kernels on the CPU, block by block and thread by thread.
///
/// What it shows is that a kernel's arithmetic, indices and barriers are right; not that it is fast, nor that the
/// device agrees with the C++ compiler to the last bit.
pub struct Emulator {
    folder: TempDir,
    descending: bool,
    programs: Mutex<HashMap<u64, HashMap<String, Entry>>>,
}

impl Emulator {
    /// Makes an emulator whose threads take turns in ascending or descending order.
    ///
    /// Returns nothing, and says so, on a machine without a C++ compiler.
    pub fn new(descending: bool) -> Option<Self> {
        let compiler = Command::new("c++").arg("--version").output();
        if !compiler.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no C++ compiler `c++` to run CUDA kernels with");
            return None;
        }
        Some(Self {
            folder: tempfile::tempdir().expect("the temporary folder is writable"),
            descending,
            programs: Mutex::default(),
        })
    }

    /// Compiles a program into a library and finds its kernels' entries.
    fn compile(&self, program: &Program) -> HashMap<String, Entry> {
        let stem = format!("{}-{:016x}", program.name(), program.id());
        let source = self.folder.path().join(format!("{stem}.cpp"));
        let library = self.folder.path().join(format!("{stem}.so"));
        let entries: String = program
            .functions()
            .iter()
            .map(|name| {
                format!(
                    "extern \"C\" void enter_{name}(void** arguments, const unsigned* grid, int threads, int descending) \
                     {{ emulator::launch({name}, arguments, grid, threads, descending); }}\n"
                )
            })
            .collect();
        fs::write(&source, format!("{SHIM}\n{}\n{entries}", program.source()))
            .expect("the temporary folder is writable");
        let output = Command::new("c++")
            .args([
                "-std=c++17",
                "-O1",
                "-w",
                "-shared",
                "-fPIC",
                "-ffp-contract=off",
            ])
            .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"])
            // Otherwise libraries of several emulators would share their kernels' shared memory.
            .args(["-fno-gnu-unique", "-Wl,-Bsymbolic"])
            .arg(&source)
            .arg("-o")
            .arg(&library)
            .output()
            .expect("the compiler was there");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = CString::new(library.to_str().expect("a plain path")).expect("a plain path");
        // SAFETY: the library is the one just built, and has no initialisers.
        let handle = unsafe { open_library(&path) };
        let entry = |name: &str| {
            // SAFETY: the symbol is a function of the type of `Entry`, written above; the library is never closed.
            unsafe {
                let found = symbol(handle, &format!("enter_{name}"));
                std::mem::transmute::<*mut c_void, Entry>(found)
            }
        };
        let functions = program.functions();
        functions
            .iter()
            .map(|&name| (name.to_owned(), entry(name)))
            .collect()
    }
}

impl Launcher for Emulator {
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        // The shim's state is the library's, so kernels run one at a time.
        let mut programs = self.programs.lock().expect("no launch panicked");
        let entries = programs
            .entry(launch.program.id())
            .or_insert_with(|| self.compile(launch.program));
        let Some(entry) = entries.get(launch.function) else {
            return Err(ModelError::Device {
                device: "emulated".to_owned(),
                message: format!("no kernel is called {}", launch.function),
            });
        };
        let arguments: Vec<_> = launch
            .arguments
            .iter()
            .map(|value| value.as_ptr())
            .collect();
        let grid = launch.grid.map(|blocks| blocks as c_uint);
        // SAFETY: the caller vouches for the arguments.
        unsafe {
            entry(
                arguments.as_ptr(),
                grid.as_ptr(),
                launch.threads as c_int,
                c_int::from(self.descending),
            );
        }
        Ok(())
    }
}

/// Compiles kernels with the real NVRTC and runs nothing: what they write stays as it was.
pub struct CompileOnly {
    library: usize,
    architecture: &'static str,
    compiled: Mutex<HashMap<u64, Vec<u8>>>,
}

type CreateProgram = unsafe extern "C" fn(
    *mut *mut c_void,
    *const c_char,
    *const c_char,
    c_int,
    *const c_void,
    *const c_void,
) -> c_int;
type CompileProgram = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
type GetSize = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type GetText = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;

impl CompileOnly {
    /// Takes the NVRTC in `folder`, which needs no GPU, for an architecture such as `sm_90`.
    pub fn new(folder: &Path, architecture: &'static str) -> Self {
        let open = |name: &str| {
            let path = folder.join(name);
            let path = CString::new(path.to_str().expect("a plain path")).expect("a plain path");
            // SAFETY: the caller names the folder of a toolkit.
            unsafe { open_library(&path) }
        };
        // NVRTC looks for its second library by name; it is found once it is loaded.
        open("libnvrtc-builtins.so.13.0");
        Self {
            library: open("libnvrtc.so.13") as usize,
            architecture,
            compiled: Mutex::default(),
        }
    }

    fn compile(&self, program: &Program) -> Vec<u8> {
        let library = self.library as *mut c_void;
        let source = CString::new(program.source()).expect("a source has no zero bytes");
        let options = [
            format!("--gpu-architecture={}", self.architecture),
            format!("--fmad={}", program.fuses()),
        ];
        let options = options.map(|option| CString::new(option).expect("a plain option"));
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: these are NVRTC's functions and their types; buffers have the sizes asked for.
        unsafe {
            let create: CreateProgram = std::mem::transmute(symbol(library, "nvrtcCreateProgram"));
            let compile: CompileProgram =
                std::mem::transmute(symbol(library, "nvrtcCompileProgram"));
            let get = |handle, what: &str| {
                let size_of: GetSize =
                    std::mem::transmute(symbol(library, &format!("nvrtcGet{what}Size")));
                let get: GetText = std::mem::transmute(symbol(library, &format!("nvrtcGet{what}")));
                let mut size = 0;
                assert_eq!(size_of(handle, &raw mut size), 0);
                let mut bytes = vec![0_u8; size];
                assert_eq!(get(handle, bytes.as_mut_ptr().cast()), 0);
                bytes
            };
            let mut handle = std::ptr::null_mut();
            let none = std::ptr::null();
            let made = create(
                &raw mut handle,
                source.as_ptr(),
                std::ptr::null(),
                0,
                none,
                none,
            );
            assert_eq!(made, 0);
            if compile(handle, pointers.len() as c_int, pointers.as_ptr()) != 0 {
                let log = get(handle, "ProgramLog");
                panic!("{}: {}", program.name(), String::from_utf8_lossy(&log));
            }
            get(handle, "CUBIN")
        }
    }
}

impl Launcher for CompileOnly {
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut compiled = self.compiled.lock().expect("no launch panicked");
        let code = compiled
            .entry(launch.program.id())
            .or_insert_with(|| self.compile(launch.program));
        let name = launch.function.as_bytes();
        assert!(
            code.windows(name.len()).any(|part| part == name),
            "the machine code has no {}",
            launch.function
        );
        Ok(())
    }
}

/// # Safety
/// The library's initialisers must be harmless.
unsafe fn open_library(path: &CStr) -> *mut c_void {
    // SAFETY: as the caller says.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{}", last_error());
    handle
}

/// # Safety
/// The library must be open.
unsafe fn symbol(library: *mut c_void, name: &str) -> *mut c_void {
    let name = CString::new(name).expect("a plain name");
    // SAFETY: as the caller says.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!found.is_null(), "{}", last_error());
    found
}

fn last_error() -> String {
    // SAFETY: `dlerror` returns a string or null.
    unsafe {
        let message: *const c_char = libc::dlerror();
        if message.is_null() {
            "no reason given".to_owned()
        } else {
            CStr::from_ptr(message).to_string_lossy().into_owned()
        }
    }
}
