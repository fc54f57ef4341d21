use std::slice;

/// The build id that the linker wrote into the running program, `None` if it wrote none. Two programs with the same one
/// were built from the same code.
pub fn build_id() -> Option<Vec<u8>> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, found: *mut libc::c_void) -> i32 {
        // SAFETY: the loader gives a valid description of a loaded object, and `found` is what was passed below. The
        // headers and notes of a loaded object stay mapped.
        unsafe {
            let info = &*info;
            let found = &mut *found.cast::<Option<Vec<u8>>>();
            for header in slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) {
                if header.p_type == libc::PT_NOTE && found.is_none() {
                    let start = (info.dlpi_addr + header.p_vaddr) as usize as *const u8;
                    *found = find_build_id(slice::from_raw_parts(start, header.p_memsz as usize));
                }
            }
        }
        // The first object is the program itself; the others are its libraries.
        1
    }
    let mut found: Option<Vec<u8>> = None;
    // SAFETY: `visit` fits, and `found` lives until it has returned.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

/// Looks for `NT_GNU_BUILD_ID` in a segment of ELF notes.
fn find_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    const BUILD_ID: u32 = 3;
    loop {
        let word = |index: usize| {
            Some(u32::from_ne_bytes(
                notes.get(index * 4..index * 4 + 4)?.try_into().ok()?,
            ))
        };
        let (name_length, length, kind) = (word(0)? as usize, word(1)? as usize, word(2)?);
        let name_end = 12usize.checked_add(name_length)?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(length)?;
        if kind == BUILD_ID && notes.get(12..name_end)? == b"GNU\0" {
            return Some(notes.get(start..end)?.to_vec());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, value.len() as u32, kind] {
            note.extend(word.to_ne_bytes());
        }
        for part in [name, value] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let notes = [
            note(b"GNU\0", 1, &[1; 6]),
            note(b"Linux\0", 3, &[2; 5]),
            note(b"GNU\0", 3, &[7; 20]),
        ]
        .concat();
        assert_eq!(find_build_id(&notes), Some(vec![7; 20]));
        assert_eq!(find_build_id(&notes[..notes.len() - 1]), None);
        assert_eq!(find_build_id(&note(b"GNU\0", 1, &[1; 6])), None);
        assert_eq!(find_build_id(&[0xFF; 64]), None);
    }

    #[test]
    fn the_same_program_has_the_same_build_id() {
        assert_eq!(build_id(), build_id());
    }
}
