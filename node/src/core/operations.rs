//! Share operations as clients see them: what the log says, refined by what this node knows as one who takes part.

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::generate::{Ceremony, Generate, Phase};
use symbolon_protocol::request::{Action, SignedRequest};
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::records::OperationRecord;
use symbolon_protocol::state::view::{self, KeyView, OperationPhase, OperationView};
use symbolon_protocol::table::read;

use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// A page of operations as a node shows it: index of the state, the operations, the id to go on after.
pub type OperationPage = (u64, Vec<OperationView>, Vec<u8>);

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// A page of the share operations that run.
    ///
    /// # Errors
    /// What the door says.
    pub async fn list_operations(&self, request: &SignedRequest) -> Result<OperationPage, Refusal> {
        let (verified, client) = self.admit_read(request).await?;
        let Action::ListOperations { after, limit } = &verified.body().action else {
            return Err(Refusal::new(ErrorCode::InvalidArgument, "the request asks for something else than the call"));
        };
        let limit = usize::try_from(*limit).unwrap_or(1);
        let page = view::operation_page(&self.tables(), &client, after, limit).map_err(|e| self.fail(&e))?;
        let (mut operations, next) = page;
        for operation in &mut operations {
            self.refine(operation)?;
        }
        Ok((self.applied_index().unwrap_or(0), operations, next))
    }

    /// Puts this node's own knowledge into what is shown of a key.
    pub(crate) fn refine_key(&self, mut key: KeyView) -> Result<KeyView, Refusal> {
        for operation in key.versions.iter_mut().filter_map(|version| version.running.as_mut()) {
            self.refine(operation)?;
        }
        Ok(key)
    }

    fn refine(&self, operation: &mut OperationView) -> Result<(), Refusal> {
        if operation.phase != OperationPhase::Committing {
            return Ok(());
        }
        let record: Option<OperationRecord> =
            read(&self.tables(), &replicated::operation(&operation.id)).map_err(|e| self.fail(&e))?;
        let known = record.and_then(|record| lock(&self.0.progress).get(&record.ceremony.digest()).cloned());
        if let Some((phase, waiting)) = known {
            operation.phase = phase;
            operation.waiting = waiting.into_iter().collect();
        }
        Ok(())
    }

    /// Notes how far a generation is on this node.
    pub(crate) fn note_progress(&self, ceremony: &Ceremony, machine: &Generate) {
        let (phase, waiting) = machine.waiting_for();
        let phase = match phase {
            Phase::Round1 => OperationPhase::Committing,
            Phase::Echo => OperationPhase::Echoing,
            Phase::Round2 => OperationPhase::Sharing,
            Phase::Staging | Phase::Voted | Phase::Ended => OperationPhase::Staging,
        };
        let mut progress = lock(&self.0.progress);
        // A machine waits for nobody but the log once it has voted; the log knows better for whom.
        if phase == OperationPhase::Staging && waiting.is_empty() {
            progress.remove(&ceremony.digest());
        } else {
            progress.insert(ceremony.digest(), (phase, waiting));
        }
    }
}
