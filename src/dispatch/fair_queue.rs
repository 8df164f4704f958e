//! The queue of admitted lookups: callers take turns, a caller's connections take turns, a connection's lookups go in order.
//!
//! This is deficit round robin with equal costs. A flow exists while a lookup of it is queued, so there are never more flows than lookups,
//! and a caller that leaves and returns gains no turn. A queued lookup takes 80 bytes and its payload; a flow, of which it may need two,
//! about 100 with its part of the index. Vectors double as they grow: the process grows by twice that (`benches/REPORT.md`).

use std::collections::HashMap;

use super::{
    CLASSES, Ticket,
    rings::{NIL, Rings},
};

/// A queued lookup. Times are in nanoseconds.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) payload: T,
    pub(super) class: usize,
    pub(super) caller: u64,
    pub(super) arrived: u64,
    /// When it was promised to go out.
    pub(super) due: u64,
    /// When it becomes useless. At least `due`; later if another caller has joined it.
    pub(super) until: u64,
    flow: u32,
}

#[derive(Debug)]
struct Slot<T> {
    /// Distinguishes its ticket from those of earlier lookups in this slot.
    generation: u32,
    entry: Option<Entry<T>>,
}

/// The flow of a caller or of a connection.
#[derive(Clone, Copy, Debug)]
struct Flow {
    key: Key,
    /// The caller's flow; `NIL` for a caller's flow itself.
    parent: u32,
    /// The next of its connections or lookups.
    head: u32,
    queued: u32,
    /// The connections in a caller's flow.
    members: u32,
    /// In a caller's flow: toggles with each of its turns.
    second_turn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    class: u8,
    caller: u64,
    connection: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Callers {
    head: u32,
    count: u32,
    queued: u32,
}

/// The position that one more lookup of a flow would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) of_caller: u32,
    pub(super) of_connection: u32,
    /// Turns of the caller until it goes out, including its own.
    pub(super) in_caller: u32,
    /// Turns of the class until it goes out: an upper bound if no other caller arrives.
    pub(super) turns: u32,
}

#[derive(Debug)]
pub(super) struct FairQueue<T> {
    slots: Vec<Slot<T>>,
    free_slots: Vec<u32>,
    /// The order of lookups within connections.
    lookups: Rings,
    flows: Vec<Flow>,
    free_flows: Vec<u32>,
    /// The order of callers within classes, and of connections within callers.
    turns: Rings,
    index: HashMap<Key, u32>,
    classes: [Callers; CLASSES],
    queued: u32,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        let nobody = Callers {
            head: NIL,
            count: 0,
            queued: 0,
        };
        Self {
            slots: Vec::new(),
            free_slots: Vec::new(),
            lookups: Rings::default(),
            flows: Vec::new(),
            free_flows: Vec::new(),
            turns: Rings::default(),
            index: HashMap::new(),
            classes: [nobody; CLASSES],
            queued: 0,
        }
    }

    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    pub(super) fn queued_of(&self, class: usize) -> u32 {
        self.classes[class].queued
    }

    pub(super) fn callers_of(&self, class: usize) -> u32 {
        self.classes[class].count
    }

    pub(super) fn has_caller(&self, class: usize, caller: u64) -> bool {
        self.flow(class, caller, None).is_some()
    }

    /// The position of one more lookup. Exact if no other caller has fewer queued lookups than this one, otherwise an upper bound.
    pub(super) fn position(&self, class: usize, caller: u64, connection: u64) -> Position {
        let callers = self.classes[class];
        let whole = self.flow(class, caller, None);
        let of_caller = whole.map_or(0, |flow| flow.queued);
        let part = self.flow(class, caller, Some(connection));
        let of_connection = part.map_or(0, |flow| flow.queued);
        let connections = whole.map_or(0, |flow| flow.members) + u32::from(part.is_none());
        let in_caller = connections.saturating_mul(of_connection + 1).min(of_caller + 1);
        let count = callers.count + u32::from(whole.is_none());
        Position {
            of_caller,
            of_connection,
            in_caller,
            turns: count.saturating_mul(in_caller).min(callers.queued + 1),
        }
    }

    pub(super) fn queued_by(&self, class: usize, caller: u64) -> u32 {
        self.flow(class, caller, None).map_or(0, |flow| flow.queued)
    }

    /// Appends a lookup to its flow. Returns its index.
    pub(super) fn push(&mut self, mut entry: Entry<T>, connection: u64) -> u32 {
        let index = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                entry: None,
            });
            as_index(self.slots.len() - 1)
        });
        entry.flow = self.enter(entry.class, entry.caller, connection);
        self.lookups
            .push_back(&mut self.flows[entry.flow as usize].head, index);
        self.slots[index as usize].entry = Some(entry);
        self.queued += 1;
        index
    }

    pub(super) fn move_to(&mut self, index: u32, class: usize, caller: u64, connection: u64) {
        let flow = self.enter(class, caller, connection);
        let Some(entry) = self.entry_mut(index) else {
            return;
        };
        let from = std::mem::replace(&mut entry.flow, flow);
        (entry.class, entry.caller) = (class, caller);
        self.lookups.remove(&mut self.flows[from as usize].head, index);
        self.lookups.push_back(&mut self.flows[flow as usize].head, index);
        self.leave(from);
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<(Ticket, Entry<T>)> {
        let ticket = self.ticket(index);
        let slot = self.slots.get_mut(index as usize)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free_slots.push(index);
        self.lookups
            .remove(&mut self.flows[entry.flow as usize].head, index);
        self.leave(entry.flow);
        self.queued -= 1;
        Some((ticket, entry))
    }

    /// The lookup of a class whose turn it is.
    pub(super) fn front(&self, class: usize) -> Option<u32> {
        let caller = self.classes[class].head;
        let connection = self.flows.get(caller as usize)?.head;
        Some(self.flows[connection as usize].head)
    }

    /// Whether it is the second of two turns of the next caller.
    pub(super) fn is_second_turn(&self, class: usize) -> bool {
        let caller = self.classes[class].head as usize;
        self.flows.get(caller).is_some_and(|caller| caller.second_turn)
    }

    /// Ends the turns of the flows of `index`, which is about to go out.
    pub(super) fn end_turn(&mut self, index: u32) {
        let Some(entry) = self.entry(index) else {
            return;
        };
        let (connection, class) = (entry.flow, entry.class);
        let caller = self.flows[connection as usize].parent;
        if self.flows[caller as usize].head == connection {
            self.flows[caller as usize].head = self.turns.next(connection);
        }
        if self.classes[class].head == caller {
            self.classes[class].head = self.turns.next(caller);
            self.flows[caller as usize].second_turn ^= true;
        }
    }

    pub(super) fn entry(&self, index: u32) -> Option<&Entry<T>> {
        self.slots.get(index as usize)?.entry.as_ref()
    }

    pub(super) fn entry_mut(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.slots.get_mut(index as usize)?.entry.as_mut()
    }

    pub(super) fn ticket(&self, index: u32) -> Ticket {
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        Ticket { index, generation }
    }

    /// The index of the ticket's lookup. `None` if it is no longer queued.
    pub(super) fn find(&self, ticket: Ticket) -> Option<u32> {
        let slot = self.slots.get(ticket.index as usize)?;
        (slot.generation == ticket.generation && slot.entry.is_some()).then_some(ticket.index)
    }

    fn flow(&self, class: usize, caller: u64, connection: Option<u64>) -> Option<&Flow> {
        let index = self.index.get(&key(class, caller, connection))?;
        Some(&self.flows[*index as usize])
    }

    /// Adds one to a connection's flow, which is created if necessary. Returns the flow.
    fn enter(&mut self, class: usize, caller: u64, connection: u64) -> u32 {
        let whole = self.open(key(class, caller, None), NIL);
        let part = self.open(key(class, caller, Some(connection)), whole);
        self.flows[whole as usize].queued += 1;
        self.flows[part as usize].queued += 1;
        self.classes[class].queued += 1;
        part
    }

    fn open(&mut self, key: Key, parent: u32) -> u32 {
        if let Some(index) = self.index.get(&key) {
            return *index;
        }
        let flow = Flow {
            key,
            parent,
            head: NIL,
            queued: 0,
            members: 0,
            second_turn: false,
        };
        let index = if let Some(index) = self.free_flows.pop() {
            self.flows[index as usize] = flow;
            index
        } else {
            self.flows.push(flow);
            as_index(self.flows.len() - 1)
        };
        self.index.insert(key, index);
        if let Some(parent) = self.flows.get_mut(parent as usize) {
            parent.members += 1;
            self.turns.push_back(&mut parent.head, index);
        } else {
            let callers = &mut self.classes[usize::from(key.class)];
            callers.count += 1;
            self.turns.push_back(&mut callers.head, index);
        }
        index
    }

    /// Subtracts one from a connection's flow. Empty flows are removed.
    fn leave(&mut self, connection: u32) {
        let caller = self.flows[connection as usize].parent;
        let class = usize::from(self.flows[caller as usize].key.class);
        self.classes[class].queued -= 1;
        for flow in [connection, caller] {
            self.flows[flow as usize].queued -= 1;
        }
        if self.flows[connection as usize].queued == 0 {
            let parent = &mut self.flows[caller as usize];
            parent.members -= 1;
            self.turns.remove(&mut parent.head, connection);
            self.close(connection);
        }
        if self.flows[caller as usize].queued == 0 {
            self.classes[class].count -= 1;
            self.turns.remove(&mut self.classes[class].head, caller);
            self.close(caller);
        }
    }

    fn close(&mut self, flow: u32) {
        self.index.remove(&self.flows[flow as usize].key);
        self.free_flows.push(flow);
    }

    #[cfg(test)]
    pub(super) fn flows(&self) -> usize {
        self.index.len()
    }
}

impl<T> Entry<T> {
    pub(super) fn new(payload: T, class: usize, caller: u64, arrived: u64, due: u64) -> Self {
        Self {
            payload,
            class,
            caller,
            arrived,
            due,
            until: due,
            flow: NIL,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "one of four classes")]
fn key(class: usize, caller: u64, connection: Option<u64>) -> Key {
    Key {
        class: class as u8,
        caller,
        connection,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "as many lookups as that do not fit into memory"
)]
fn as_index(index: usize) -> u32 {
    index as u32
}
