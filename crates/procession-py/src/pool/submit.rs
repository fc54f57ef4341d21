//! Calls and jobs on their way into slots.

use super::*;

impl Core {
    pub(super) fn encoder(&self, py: Python<'_>) -> Encoder {
        let mut encoder = Encoder::new(Some(self.channel.shared_arena()), Owner::CALLER);
        if let Some(bytes) = self.inner.with(py, |i| i.spare.pop()) {
            encoder.bytes = bytes;
        }
        encoder
    }

    pub(super) fn give_back(&self, py: Python<'_>, mut encoder: Encoder) {
        encoder.bytes.clear();
        if encoder.bytes.capacity() <= 1 << 20 {
            self.inner
                .with(py, |i| i.spare.push(std::mem::take(&mut encoder.bytes)));
        }
    }

    /// The number of a function in the pool's table, if it is one that travels by reference.
    pub(super) fn function_number(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
    ) -> Result<Option<u32>, EncodeError> {
        let address = function.as_ptr() as usize;
        let known = self.inner.with(py, |i| {
            if i.last_function.0 == address {
                return Some(i.last_function.1);
            }
            let number = i.numbers.get(&address).copied();
            if let Some(number) = number {
                i.last_function = (address, number);
            }
            number
        });
        if known.is_some() {
            return Ok(known);
        }
        if !travels_by_reference(function) || crate::pickle::travels_by_value(function) {
            return Ok(None);
        }
        let mut encoder = self.encoder(py);
        let encoded = encoder.put(function);
        let stored = encoded.and_then(|()| {
            let len = encoder.bytes.len();
            let (data, kept) = (encoder.bytes.as_ptr(), encoder.blocks.len());
            let block = encoder.put_block(data, len)?;
            encoder.blocks.truncate(kept);
            Ok((block, len))
        });
        self.give_back(py, encoder);
        let (block, len) = stored?;
        let number = self.inner.with(py, |i| {
            let number = i.known.len() as u32;
            if number >= self.channel.most_functions() {
                return None;
            }
            let entry = u64::from(block.raw()) << 32 | len as u64;
            self.channel
                .function_entry(number)
                .store(entry, Ordering::Release);
            i.known.push(Known {
                function: function.clone().unbind(),
                name: OnceLock::new(),
                cost_ns: 0.0,
                tally: FunctionTally::default(),
            });
            i.numbers.insert(address, number);
            Some(number)
        });
        match number {
            None => drop(self.channel.arena().free(block, Owner::CALLER)),
            Some(number) => self.channel.set_function_name(number, &name_of(function)),
        }
        Ok(number)
    }

    /// A number by which watchers find this name; 0 if there are too many.
    pub(super) fn name_number(&self, py: Python<'_>, name: &str) -> u32 {
        self.number_of_name(py, name).unwrap_or(0)
    }

    /// A number by which this name is found; `None` if there are too many.
    ///
    /// Functions that travel with their tasks have no number of their own, as each may be another object.
    fn number_of_name(&self, py: Python<'_>, name: &str) -> Option<u32> {
        self.inner.with(py, |i| {
            if let Some(&number) = i.names.get(name) {
                return Some(number);
            }
            let number = i.known.len() as u32;
            if number >= self.channel.most_functions() {
                return None;
            }
            self.channel.set_function_name(number, name);
            i.known.push(Known {
                function: py.None(),
                name: OnceLock::from(name.to_owned()),
                cost_ns: 0.0,
                tally: FunctionTally::default(),
            });
            i.names.insert(name.to_owned(), number);
            Some(number)
        })
    }

    pub(super) fn place(&self, bytes: &[u8]) -> Result<Place, EncodeError> {
        if bytes.len() <= SLOT_INLINE_BYTES {
            return Ok(Place::Inline);
        }
        let block = self.channel.arena().alloc(bytes.len() as u64, Owner::CALLER)?;
        // SAFETY: the block is ours and has room.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.channel.arena().start(block), bytes.len())
        };
        Ok(Place::Block(block))
    }

    /// Fills a vacant slot and publishes it.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn publish(
        &self,
        inner: &mut Inner,
        slot: u32,
        bytes: &[u8],
        place: Place,
        kind: u32,
        function: u32,
        begin: u32,
        items: u32,
        target: Target,
        large_bytes: u64,
        terms: Terms,
        began_ns: Option<u64>,
    ) {
        let s = self.channel.slot(slot);
        let block = match place {
            Place::Inline => {
                // SAFETY: the slot is vacant, so its bytes are ours, and there are few enough.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), s.inline(), bytes.len()) };
                Block::NONE
            }
            Place::Block(block) => block.raw(),
        };
        let now = began_ns.map(|_| time::monotonic_ns());
        let kind = if began_ns.is_some() {
            kind | kind::TIMED
        } else {
            kind
        };
        let note = self.channel.note(slot);
        note.submitted_ns.store(now.unwrap_or(0), Ordering::Relaxed);
        note.failed.store(0, Ordering::Relaxed);
        if let Some(known) = inner.known.get_mut(function as usize) {
            let encode_ns = now.zip(began_ns).map(|(now, began)| now - began);
            known
                .tally
                .sent(items - begin, bytes.len() as u64 + large_bytes, encode_ns);
        }
        s.kind.store(kind, Ordering::Relaxed);
        s.function.store(function, Ordering::Relaxed);
        s.timeout_ms.store(terms.timeout_ms, Ordering::Relaxed);
        let first_item = match target {
            Target::Job(_, first) => first,
            _ => Note::NO_ITEM,
        };
        self.channel
            .note(slot)
            .first_item
            .store(first_item, Ordering::Relaxed);
        s.payload_len.store(bytes.len() as u64, Ordering::Relaxed);
        s.payload_block.store(block, Ordering::Relaxed);
        s.result_block.store(Block::NONE, Ordering::Relaxed);
        s.result_len.store(0, Ordering::Relaxed);
        s.finished.store(begin, Ordering::Relaxed);
        s.range
            .store(u64::from(items) << 32 | u64::from(begin), Ordering::Relaxed);
        while inner.entries.len() <= slot as usize {
            inner.entries.push(Entry {
                target: Target::Vacant,
                begin: 0,
                items: 0,
                large_bytes: 0,
            });
        }
        inner.entries[slot as usize] = Entry {
            target,
            begin,
            items,
            large_bytes,
        };
        inner.large_bytes += large_bytes;
        inner.dispatcher.publish_with_priority(slot, terms.priority);
    }

    /// Encodes one call and publishes it; `Full` if there is no room now.
    pub(super) fn submit(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
        result: &Bound<'_, AsyncResult>,
        terms: Terms,
    ) -> Result<(), EncodeError> {
        let number = self.function_number(py, function)?;
        let began_ns = self.time_one_of_many(py);
        let mut encoder = self.encoder(py);
        let encoded = (|| {
            if number.is_none() {
                encoder.put(&crate::pickle::carried(function))?;
            }
            encoder.put(arguments.as_any())?;
            if let Some(keywords) = keywords {
                encoder.put(keywords.as_any())?;
            }
            self.place(&encoder.bytes)
        })();
        let place = match encoded {
            Ok(place) => place,
            Err(e) => {
                encoder.rewind(0, 0);
                self.give_back(py, encoder);
                return Err(e);
            }
        };
        let large_bytes = encoder.blocks.iter().map(|b| b.capacity()).sum();
        let mut kind = if keywords.is_some() {
            kind::CALL_KEYWORDS
        } else {
            kind::CALL
        };
        if number.is_none() {
            kind |= kind::WITH_FUNCTION;
        }
        let named = match number {
            Some(_) => number,
            None => self.number_of_name(py, &name_of(function)),
        };
        let held = result.get().has_calls();
        let published = self.inner.with(py, |i| {
            if large_bytes > 0
                && i.large_bytes > 0
                && i.large_bytes + large_bytes > 16 * LARGE_BYTES_IN_FLIGHT
            {
                return false;
            }
            let Some(slot) = i.dispatcher.take_slot() else {
                return false;
            };
            result.get().set_slot(slot, named);
            let target = if held {
                Target::Held(result.clone().unbind())
            } else {
                Target::One(result.as_ptr())
            };
            self.publish(
                i,
                slot,
                &encoder.bytes,
                copy_place(&place),
                kind,
                named.unwrap_or(0),
                0,
                1,
                target,
                large_bytes,
                terms,
                began_ns,
            );
            i.dispatcher.flush();
            i.submissions = i.submissions.wrapping_add(1);
            true
        });
        if published {
            encoder.blocks.clear();
            self.give_back(py, encoder);
            Ok(())
        } else {
            if let Place::Block(block) = place {
                self.channel.arena().free(block, Owner::CALLER);
            }
            encoder.rewind(0, 0);
            self.give_back(py, encoder);
            Err(EncodeError::Full)
        }
    }

    /// Takes a result out of its slot's entry: it is being dropped.
    pub fn abandon(&self, py: Python<'_>, slot: u32) {
        self.inner.with(py, |i| {
            if let Some(entry) = i.entries.get_mut(slot as usize) {
                if matches!(entry.target, Target::One(_)) {
                    entry.target = Target::Abandoned;
                }
            }
        });
    }
}

impl Core {
    /// What holds for a call that says this.
    pub(super) fn terms(&self, timeout: Option<&Bound<'_, PyAny>>, priority: i32) -> PyResult<Terms> {
        let timeout_ms = match timeout {
            None => self.timeout_ms,
            Some(timeout) => {
                let limit_ms = limit_ms(timeout)?;
                let shortest = &self.channel.header().life.shortest_timeout_ms;
                let known = shortest.load(Ordering::Relaxed);
                if limit_ms != 0 && (known == 0 || limit_ms < known) {
                    // The supervisor looks at deadlines in time only if it knows how short they may be.
                    shortest.store(limit_ms, Ordering::Relaxed);
                    self.tell(order::LOOK);
                }
                limit_ms
            }
        };
        Ok(Terms { timeout_ms, priority })
    }

    /// The time, for one of so many single tasks; the others are not timed.
    pub(super) fn time_one_of_many(&self, py: Python<'_>) -> Option<u64> {
        self.inner.with(py, |i| {
            i.singles = i.singles.wrapping_add(1);
            i.singles.is_multiple_of(TIMED_ONE_OF).then(time::monotonic_ns)
        })
    }

    pub(super) fn place_always(&self, bytes: &[u8]) -> Result<Block, EncodeError> {
        let block = self
            .channel
            .arena()
            .alloc(bytes.len().max(1) as u64, Owner::CALLER)?;
        // SAFETY: the block is ours and has room.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.channel.arena().start(block), bytes.len())
        };
        Ok(block)
    }

    pub(super) fn refuse_if_over(&self, py: Python<'_>) {
        self.look_for_breakage(py);
        if self.over.with(py, |o| !matches!(o, Over::No)) {
            self.fail_everything(py);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn new_job(
        &self,
        py: Python<'_>,
        func: &Bound<'_, PyAny>,
        kind: u32,
        chunk: Option<u32>,
        source: Option<Source>,
        total: Option<u64>,
        sink: Sink,
        calls: Option<Callbacks>,
        terms: Terms,
    ) -> PyResult<Arc<Job>> {
        let task = name_of(func);
        // A function that cannot be pickled fails each item, as in multiprocessing, not this call.
        let number = self.function_number(py, func).unwrap_or(None);
        let function = match number {
            Some(n) => Function::Number(n),
            None => Function::Inline(crate::pickle::carried(func).unbind(), self.name_number(py, &task)),
        };
        let cost_ns = number.map_or(0.0, |n| self.inner.with(py, |i| i.known[n as usize].cost_ns));
        let has_calls = calls.is_some();
        let state = JobState {
            source,
            held: None,
            parked: VecDeque::new(),
            total,
            pulled: 0,
            delivered: 0,
            arrivals: 0,
            in_flight: 0,
            batch: 1,
            cost_ns,
            pumping: false,
            abandoned: false,
            fed_by_thread: false,
            sink,
            calls,
            announced: false,
            calls_running: has_calls,
            listeners: Vec::new(),
            outputs: Vec::new(),
            decoding: 0,
        };
        let usual = total
            .unwrap_or(0)
            .div_ceil(u64::from(self.workers) * 4)
            .clamp(1, u64::from(u32::MAX)) as u32;
        Ok(Arc::new(Job {
            state: GilCell::new(state),
            kind,
            function,
            chunk,
            usual_chunk: usual,
            terms,
            task,
        }))
    }
}

pub(super) fn copy_place(place: &Place) -> Place {
    match place {
        Place::Inline => Place::Inline,
        Place::Block(block) => Place::Block(*block),
    }
}

pub(super) fn travels_by_reference(function: &Bound<'_, PyAny>) -> bool {
    // SAFETY: type checks on a live object.
    unsafe {
        let pointer = function.as_ptr();
        if ffi::PyFunction_Check(pointer) != 0 || ffi::PyType_Check(pointer) != 0 {
            return true;
        }
        if ffi::PyCFunction_CheckExact(pointer) != 0 {
            let of = ffi::PyCFunction_GetSelf(pointer);
            return of.is_null() || ffi::PyModule_Check(of) != 0;
        }
    }
    false
}
