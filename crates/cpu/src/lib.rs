//! Hints to the processor, behind safe functions.
//!
//! The rule for unsafe code here: an instruction may only hint. Whatever its operand, it changes neither memory nor
//! what the program computes, so that the function around it is safe for all arguments.

/// Asks for the cache line in which `value` begins, to be read soon. Returns at once; does nothing on processors
/// for which nobody has written it yet.
///
/// Sources: Intel SDM, volume 2, "PREFETCHh"; Arm ARM, "PRFM (register)". Both are hints that raise no fault.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    let line = std::ptr::from_ref(value).cast::<i8>();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code, reason = "a hint: see the rule above")]
        // SAFETY: PREFETCHT0 only hints, and every x86-64 has it.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line);
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        #[allow(unsafe_code, reason = "a hint: see the rule above")]
        // SAFETY: PRFM only hints, and every AArch64 has it.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::prefetch;

    #[test]
    fn a_hint_changes_nothing() {
        let values = [1_u64, 2, 3];
        prefetch(&values);
        prefetch(&values[3..]);
        prefetch("");
        assert_eq!(values, [1, 2, 3]);
    }
}
