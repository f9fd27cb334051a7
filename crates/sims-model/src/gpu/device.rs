//! Kernels on a CUDA device: compiled by NVRTC when they are first started.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, LaunchConfig, PushKernelArg, result::device::get_default_mem_pool,
    result::mem_pool, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::{Ptx, result, sys as nvrtc};

use super::launch::{Argument, Launch, Launcher, Program};
use crate::{ModelError, Result};

/// Compiled programs of this process, by program and architecture.
static COMPILED: LazyLock<Mutex<HashMap<(u64, String), Ptx>>> = LazyLock::new(Mutex::default);

/// Starts kernels on a CUDA device, in the order of its stream.
pub(super) struct CudaLauncher {
    device: CudaDevice,
    architecture: String,
    modules: Mutex<HashMap<u64, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(u64, &'static str), Arc<CudaFunction>>>,
}

impl CudaLauncher {
    /// Asks the device for its architecture, and lets it keep memory that is given back.
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let context = device.cuda_stream().context().clone();
        let (major, minor) = context.compute_capability().map_err(failed)?;
        if context.has_async_alloc() {
            keep_freed_memory(context.cu_device());
        }
        Ok(Self {
            device: device.clone(),
            architecture: format!("sm_{major}{minor}"),
            modules: Mutex::default(),
            functions: Mutex::default(),
        })
    }

    fn function(&self, program: &Program, name: &'static str) -> Result<Arc<CudaFunction>> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(&(program.id(), name)) {
            return Ok(function.clone());
        }
        let module = self.module(program)?;
        let function = Arc::new(module.load_function(name).map_err(failed)?);
        functions.insert((program.id(), name), function.clone());
        Ok(function)
    }

    fn module(&self, program: &Program) -> Result<Arc<CudaModule>> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&program.id()) {
            return Ok(module.clone());
        }
        let compiled = self.compiled(program)?;
        let context = self.device.cuda_stream().context().clone();
        let module = context.load_module(compiled).map_err(failed)?;
        modules.insert(program.id(), module.clone());
        Ok(module)
    }

    fn compiled(&self, program: &Program) -> Result<Ptx> {
        let mut compiled = lock(&COMPILED);
        let key = (program.id(), self.architecture.clone());
        if let Some(ptx) = compiled.get(&key) {
            return Ok(ptx.clone());
        }
        let options = [
            format!("--gpu-architecture={}", self.architecture),
            format!("--fmad={}", program.fuses()),
        ];
        let ptx = compile(program, &options)
            .map_err(|message| failed(format!("compiling {}: {message}", program.name())))?;
        compiled.insert(key, ptx.clone());
        Ok(ptx)
    }
}

impl Launcher for CudaLauncher {
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let function = self.function(launch.program, launch.function)?;
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for argument in launch.arguments {
            match argument {
                Argument::Address(value) => builder.arg(value),
                Argument::Int(value) => builder.arg(value),
                Argument::Long(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
                Argument::Double(value) => builder.arg(value),
            };
        }
        let blocks = |count: usize| u32::try_from(count).expect("grids fit 32 bits");
        let config = LaunchConfig {
            grid_dim: (
                blocks(launch.grid[0]),
                blocks(launch.grid[1]),
                blocks(launch.grid[2]),
            ),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller vouches for the arguments.
        unsafe { builder.launch(config) }
            .map_err(|error| failed(format!("starting {}: {error}", launch.function)))?;
        Ok(())
    }
}

/// Compiles a program to machine code, which an older driver of the same major version takes too; it would refuse
/// NVRTC's intermediate code.
fn compile(program: &Program, options: &[String]) -> std::result::Result<Ptx, String> {
    let source = CString::new(program.source()).expect("a source has no zero bytes");
    let name = CString::new(format!("{}.cu", program.name())).expect("names have no zero bytes");
    let handle = result::create_program(&source, Some(&name)).map_err(|error| error.to_string())?;
    // SAFETY: the handle is that of the program just made, and buffers have the sizes that NVRTC asks for.
    unsafe {
        let compiled = result::compile_program(handle, options)
            .map_err(|error| log_of(handle).unwrap_or_else(|| error.to_string()))
            .and_then(|()| machine_code(handle).map_err(|error| error.to_string()));
        let _ = result::destroy_program(handle);
        compiled.map(Ptx::from_binary)
    }
}

/// Returns what NVRTC says about a program.
///
/// # Safety
/// The program must exist.
unsafe fn log_of(program: nvrtc::nvrtcProgram) -> Option<String> {
    // SAFETY: as the caller says; the log ends with a zero byte.
    let log = unsafe { result::get_program_log(program) }.ok()?;
    let bytes: Vec<u8> = log.iter().map(|&byte| byte as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).ok()?;
    Some(text.to_string_lossy().into_owned())
}

/// Returns the machine code of a compiled program.
///
/// # Safety
/// The program must exist.
unsafe fn machine_code(
    program: nvrtc::nvrtcProgram,
) -> std::result::Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: as the caller says; the buffer has the size asked for.
    unsafe {
        nvrtc::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut code = vec![0_u8; size];
        nvrtc::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}

/// Lets the device's pool keep what is freed.
///
/// By default it hands its memory back to the driver at every synchronisation, and the next step has to ask for it
/// again. A driver that refuses costs speed alone.
fn keep_freed_memory(device: sys::CUdevice) {
    let mut keep = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is open, and the attribute is a 64-bit number.
    let _ = unsafe {
        get_default_mem_pool(device).and_then(|pool| {
            mem_pool::set_attribute(pool, attribute, std::ptr::from_mut(&mut keep).cast())
        })
    };
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::Device {
        device: "cuda".to_owned(),
        message: error.to_string(),
    }
}
