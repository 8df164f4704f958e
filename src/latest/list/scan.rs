//! Older uploads, newest first, from lists that a source has in pages. Pure: it says which page is to be loaded next.
//!
//! The source's lists are in the order in which uploads were added to them, which is nearly that of publication; there may be two, and
//! their pages move while uploads appear and vanish. So an upload is listed by its [`Place`] among all that were loaded, and not before
//! half a page of older ones is: then one that stands in a list up to 25 places too low is still found in time. One that stands far from its
//! place by publication is not found.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use super::token::{Place, Position};
use crate::{
    upstream::Page,
    video::{Moment, Upload, VideoId},
};

/// What is loaded of a source's lists for one page of ours.
pub(super) struct Scan {
    place: Place,
    lists: Vec<List>,
}

struct List {
    from: Position,
    pages: Vec<Page>,
    /// How often pages were loaded again. Not for ever: a source may count differently each time.
    reloads: u8,
}

/// Where a list goes on: after which upload, and at which pages of the lists it is read from.
pub(super) type Continuation = (Place, Vec<Position>);

impl Scan {
    pub(super) fn new(place: Place, positions: Vec<Position>) -> Self {
        let list = |from| List {
            from,
            pages: vec![],
            reloads: 0,
        };
        let lists = positions.into_iter().map(list).collect();
        Self { place, lists }
    }

    /// The list of which a page has to be loaded before `size` uploads can be listed, and the page's name; `None` if there is none.
    pub(super) fn wanted(&self, size: usize) -> Option<(usize, Option<String>)> {
        if self.ready().len() >= size {
            return None;
        }
        let open = self
            .lists
            .iter()
            .enumerate()
            .filter(|(_, list)| !list.is_at_end());
        let (index, list) = open.max_by_key(|(_, list)| list.horizon())?;
        Some((index, list.next()))
    }

    /// Adds the page that was wanted of a list. Returns the names of pages that are out of date, if this one shows that: the list is then
    /// to be loaded again.
    pub(super) fn add(&mut self, index: usize, mut page: Page) -> Option<Vec<Option<String>>> {
        let list = &mut self.lists[index];
        page.uploads.retain(|upload| upload.published.is_some());
        // A page that was loaded already is no next one.
        page.next
            .take_if(|next| list.names().contains(&Some(next.clone())));
        let before = list.pages.last();
        if list.reloads < 2 && before.is_some_and(|before| before.total != page.total) {
            list.reloads += 1;
            // Something appeared or vanished since that was loaded: what has moved from one to the other may be in none.
            let mut names = list.names();
            if list.reloads == 1 {
                list.pages.clear();
            } else {
                // Those before have been loaded just now.
                names.drain(..names.len() - 1);
            }
            return Some(names);
        }
        // Not the newest itself, which may be out of order. An empty page is behind the end.
        let early = page.uploads.get(page.uploads.len() / 8);
        let is_past = early.map_or(page.entries == 0, |upload| is_ahead(&self.place, upload));
        if list.pages.is_empty() && matches!(list.from, Position::Page(_)) && is_past {
            // Uploads have vanished, so that those at the place are in a page before.
            list.from = Position::First;
        } else {
            list.pages.push(page);
        }
        None
    }

    /// The next `size` uploads at most, the channel's title, and where it goes on after them; `None` if there is no more.
    pub(super) fn finish(mut self, size: usize) -> (Vec<Upload>, String, Option<Continuation>) {
        let mut uploads = self.ready();
        if uploads.is_empty() {
            // As far as can be told without more pages: so many are of one second.
            uploads = self.ahead();
            uploads.retain(|upload| Moment::new(upload.published) >= self.horizon());
        }
        uploads.truncate(size);
        for upload in &uploads {
            self.place.pass_up_to(upload.id, Moment::new(upload.published));
        }
        let mut titles = self
            .lists
            .iter()
            .flat_map(|list| &list.pages)
            .map(|page| &page.title);
        let title = titles
            .find(|title| !title.is_empty())
            .cloned()
            .unwrap_or_default();
        let mut next: Vec<_> = self
            .lists
            .iter()
            .map(|list| list.position(&self.place, false))
            .collect();
        let is_stuck = uploads.is_empty() && self.lists.iter().map(|list| &list.from).eq(&next);
        if is_stuck && let Some((index, _)) = self.wanted(size) {
            next[index] = self.lists[index].position(&self.place, true);
        }
        let has_more = next.iter().any(|position| *position != Position::End);
        (uploads, title, has_more.then_some((self.place, next)))
    }

    /// The loaded uploads after the place.
    fn ahead(&self) -> Vec<Upload> {
        let loaded = self
            .lists
            .iter()
            .flat_map(|list| &list.pages)
            .flat_map(|page| &page.uploads);
        let mut ahead: Vec<_> = loaded
            .filter(|upload| is_ahead(&self.place, upload))
            .cloned()
            .collect();
        ahead.sort_by_key(place_of);
        ahead.dedup_by_key(|upload| upload.id);
        ahead
    }

    /// Those of them that can be listed: nothing that is newer can be in pages that are not loaded.
    fn ready(&self) -> Vec<Upload> {
        let horizon = self.horizon();
        let mut ahead = self.ahead();
        // Others of that second may follow, and these are listed by ID.
        ahead.retain(|upload| Moment::new(upload.published) > horizon);
        ahead
    }

    fn horizon(&self) -> Moment {
        self.lists.iter().map(List::horizon).max().unwrap_or_default()
    }
}

impl List {
    fn is_at_end(&self) -> bool {
        self.from == Position::End || self.pages.last().is_some_and(|page| page.next.is_none())
    }

    /// The name of the page that follows those that are loaded.
    fn next(&self) -> Option<String> {
        match (self.pages.last(), &self.from) {
            (Some(page), _) => page.next.clone(),
            (None, Position::Page(name)) => Some(name.clone()),
            (None, _) => None,
        }
    }

    /// The names of the loaded pages.
    fn names(&self) -> Vec<Option<String>> {
        let first = match &self.from {
            Position::Page(name) => Some(name.clone()),
            _ => None,
        };
        let others = self.pages.iter().map(|page| page.next.clone());
        std::iter::once(first)
            .chain(others)
            .take(self.pages.len() + 1)
            .collect()
    }

    /// What is older may have to wait for pages that are not loaded: the middle one of the last page, since single ones may be out of order.
    fn horizon(&self) -> Moment {
        if self.is_at_end() {
            return Moment::NONE;
        }
        let middle = self.pages.iter().rev().find_map(middle);
        middle.map_or(Moment::from_nanos(i64::MAX), |upload| {
            Moment::new(upload.published)
        })
    }

    /// Where to go on from `place`: at the last page of which half is done, which shows the next call whether the pages have moved; or at the
    /// last one, if that leads nowhere.
    fn position(&self, place: &Place, is_stuck: bool) -> Position {
        let has_ahead = |page: &Page| page.uploads.iter().any(|upload| is_ahead(place, upload));
        if self.is_at_end() && !self.pages.iter().any(has_ahead) {
            return Position::End;
        }
        let is_half_done = |page: &Page| middle(page).is_some_and(|upload| !is_ahead(place, upload));
        let last = self.pages.iter().rposition(|page| is_stuck || is_half_done(page));
        let name = last.map(|last| self.names().swap_remove(last));
        name.map_or_else(
            || self.from.clone(),
            |name| name.map_or(Position::First, Position::Page),
        )
    }
}

fn middle(page: &Page) -> Option<&Upload> {
    page.uploads.get(page.uploads.len() / 2)
}

fn is_ahead(place: &Place, upload: &Upload) -> bool {
    place.precedes(upload.id, Moment::new(upload.published))
}

fn place_of(upload: &Upload) -> (Reverse<Moment>, VideoId) {
    (Reverse(Moment::new(upload.published)), upload.id)
}
