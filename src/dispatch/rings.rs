//! Circular lists of indices into an arena: a member is removed in O(1), and no step allocates.

pub(super) const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    previous: u32,
    next: u32,
}

/// The links of all lists over one arena. A list is the index of its head, or [`NIL`].
#[derive(Debug, Default)]
pub(super) struct Rings {
    links: Vec<Links>,
}

impl Rings {
    /// Appends `index` to the list with this head.
    pub(super) fn push_back(&mut self, head: &mut u32, index: u32) {
        let needed = index as usize + 1;
        if self.links.len() < needed {
            let unlinked = Links {
                previous: NIL,
                next: NIL,
            };
            self.links.resize(needed, unlinked);
        }
        if *head == NIL {
            *self.at(index) = Links {
                previous: index,
                next: index,
            };
            *head = index;
            return;
        }
        let last = self.at(*head).previous;
        *self.at(index) = Links {
            previous: last,
            next: *head,
        };
        self.at(last).next = index;
        self.at(*head).previous = index;
    }

    /// Removes `index` from the list with this head. The head's successor replaces a removed head.
    pub(super) fn remove(&mut self, head: &mut u32, index: u32) {
        let Links { previous, next } = *self.at(index);
        if next == index {
            *head = NIL;
            return;
        }
        self.at(previous).next = next;
        self.at(next).previous = previous;
        if *head == index {
            *head = next;
        }
    }

    /// The successor of `index`; that of the last member is the head.
    pub(super) fn next(&self, index: u32) -> u32 {
        self.links[index as usize].next
    }

    fn at(&mut self, index: u32) -> &mut Links {
        &mut self.links[index as usize]
    }
}
