//! Virtual users that are written in Rust: futures, of which each worker process drives many in one thread.

use super::client::{Ask, ClientOptions};
use super::crew::{Begin, Crew, Expected, Outcome, UserIndex};
use super::desk::Desk;
use super::engine::{Engine, Found, Ticket};
use super::reply::Reply;
use crate::net::Failure;
use crate::plan::{HttpVersion, Pacing, Plan, Target, TlsOptions};
use crate::result::ErrorKind;
use crate::{now_ns, ForkHooks, Phase, Result, Run, Worker, Workload};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often the loop looks whether users should come, or the run has ended.
const TURN_NS: u64 = 10_000_000;

/// What a virtual user does in one iteration. Closures that return futures are virtual users.
pub trait VirtualUser: Send + Sync + 'static {
    /// One iteration, from beginning to end.
    type Iteration: Future<Output = std::result::Result<(), Stop>>;

    /// Begins an iteration.
    fn iterate(&self, user: User) -> Self::Iteration;
}

impl<F, I> VirtualUser for F
where
    F: Fn(User) -> I + Send + Sync + 'static,
    I: Future<Output = std::result::Result<(), Stop>>,
{
    type Iteration = I;

    fn iterate(&self, user: User) -> I {
        self(user)
    }
}

/// Why an iteration ends early. Every error becomes one by `?`.
#[derive(Debug)]
pub struct Stop(Why);

#[derive(Debug)]
enum Why {
    Failed(Failure, bool),
    RunIsOver,
}

impl Stop {
    /// The last response is not what it should be.
    pub fn rejected(text: impl Into<String>) -> Stop {
        Stop(Why::Failed(
            Failure::new(ErrorKind::Assertion, text.into()),
            false,
        ))
    }

    fn refused(failure: Option<Failure>) -> Stop {
        Stop(failure.map_or(Why::RunIsOver, |failure| {
            // What could not be asked for at all was no request, so nobody has counted it.
            let is_counted = failure.kind != ErrorKind::Script;
            Why::Failed(failure, is_counted)
        }))
    }
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop(Why::Failed(
            Failure::new(ErrorKind::Script, error.to_string()),
            false,
        ))
    }
}

/// What the users of one worker process share.
struct Shared {
    crew: RefCell<Crew>,
    desk: Arc<Desk>,
    /// Which task waits for what.
    waiting: RefCell<HashMap<Ticket, usize>>,
    /// What has become of operations whose task has not looked yet.
    outcomes: RefCell<HashMap<Ticket, Outcome>>,
    ready: RefCell<Vec<usize>>,
    current: Cell<usize>,
}

impl Shared {
    fn deliver(&self) {
        loop {
            let Some((ticket, outcome)) = self.crew.borrow_mut().next_outcome() else {
                return;
            };
            let task = self.waiting.borrow_mut().remove(&ticket);
            self.outcomes.borrow_mut().insert(ticket, outcome);
            self.ready.borrow_mut().extend(task);
        }
    }
}

/// Waits for an operation.
struct Operation {
    shared: Rc<Shared>,
    ticket: Ticket,
    is_over: bool,
}

impl Future for Operation {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.shared.outcomes.borrow_mut().remove(&self.ticket);
        match outcome {
            Some(outcome) => {
                self.is_over = true;
                Poll::Ready(outcome)
            }
            None => {
                let task = self.shared.current.get();
                self.shared.waiting.borrow_mut().insert(self.ticket, task);
                Poll::Pending
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.waiting.borrow_mut().remove(&self.ticket);
            self.shared.outcomes.borrow_mut().remove(&self.ticket);
            self.shared.crew.borrow_mut().cancel(self.ticket);
        }
    }
}

/// A virtual user, as its iterations see it. Cheap to clone.
#[derive(Clone)]
pub struct User {
    shared: Rc<Shared>,
    index: UserIndex,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({})", self.id())
    }
}

/// A request that can be made more precise before it is sent.
#[derive(Debug)]
pub struct Request<'a> {
    user: &'a User,
    ask: Ask<'a>,
    expected: Expected,
    timeout: Option<Duration>,
}

impl User {
    /// Its number among all users of the run, counting from 0.
    pub fn id(&self) -> u64 {
        self.shared.crew.borrow().id(self.index)
    }

    /// How many iterations it had before this one.
    pub fn iteration(&self) -> u64 {
        self.shared.crew.borrow().iteration(self.index)
    }

    /// A request to this URL, which may be relative to [`Scenario::base_url`].
    pub fn request<'a>(&'a self, method: &'a str, url: &'a str) -> Request<'a> {
        Request {
            user: self,
            ask: Ask {
                method,
                url,
                ..Ask::default()
            },
            expected: Expected::Success,
            timeout: None,
        }
    }

    /// Sends a GET request.
    ///
    /// # Errors
    ///
    /// If no response comes, or the run has ended. A bad status is a response.
    pub async fn get(&self, url: &str) -> std::result::Result<Reply, Stop> {
        self.request("GET", url).send().await
    }

    /// Pauses.
    ///
    /// # Errors
    ///
    /// If the run ends meanwhile.
    pub async fn think(&self, pause: Duration) -> std::result::Result<(), Stop> {
        let ticket = self.shared.crew.borrow_mut().pause(pause.as_nanos() as u64);
        match self.wait(ticket.ok_or(Stop(Why::RunIsOver))?).await {
            Outcome::Stopped => Err(Stop(Why::RunIsOver)),
            _ => Ok(()),
        }
    }

    /// Times a part of an iteration under a name of its own.
    ///
    /// # Errors
    ///
    /// Those of the part, which count as its failure.
    pub async fn step<T>(
        &self,
        name: &str,
        part: impl Future<Output = std::result::Result<T, Stop>>,
    ) -> std::result::Result<T, Stop> {
        let began_ns = now_ns();
        let result = part.await;
        match &result {
            Ok(_) => self.shared.desk.named_step(name, began_ns, None),
            Err(Stop(Why::Failed(failure, _))) => self.shared.desk.named_step(name, began_ns, Some(failure)),
            Err(Stop(Why::RunIsOver)) => {}
        }
        result
    }

    async fn wait(&self, ticket: Ticket) -> Outcome {
        let operation = Operation {
            shared: Rc::clone(&self.shared),
            ticket,
            is_over: false,
        };
        operation.await
    }
}

impl<'a> Request<'a> {
    /// As the report calls it: method and path if nothing else is said.
    pub fn name(mut self, name: &'a str) -> Request<'a> {
        self.ask.name = Some(name);
        self
    }

    /// Headers of this request.
    pub fn headers(mut self, headers: &'a [(String, String)]) -> Request<'a> {
        self.ask.headers = headers;
        self
    }

    /// What is sent, and of what type it is.
    pub fn body(mut self, body: &'a [u8], content_type: &'a str) -> Request<'a> {
        self.ask.body = Some((body, content_type));
        self
    }

    /// Which statuses are a success; those below 400 if nothing is said.
    pub fn expect(mut self, statuses: &[u16]) -> Request<'a> {
        self.expected = Expected::OneOf(statuses.to_vec());
        self
    }

    /// How many redirects are followed, if not as many as the scenario says. What is counted is the last response, timed
    /// from the first request.
    pub fn redirects(mut self, most: u32) -> Request<'a> {
        self.ask.redirects = Some(most);
        self
    }

    /// How long it may take, if not as long as the plan says.
    pub fn timeout(mut self, timeout: Duration) -> Request<'a> {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// As [`User::get`].
    pub async fn send(self) -> std::result::Result<Reply, Stop> {
        let timeout_ns = self.timeout.map(|timeout| timeout.as_nanos() as u64);
        let begun = {
            let mut crew = self.user.shared.crew.borrow_mut();
            // Another user may have held up all others, and the server closed this one's connection meanwhile.
            let _ = crew.look_for_closed();
            crew.request(self.user.index, &self.ask, self.expected, timeout_ns)
        };
        let (ticket, _) = begun.map_err(Stop::refused)?;
        match self.user.wait(ticket).await {
            Outcome::Replied(reply, _) => Ok(*reply),
            Outcome::Failed(failure) => Err(Stop::refused(Some(failure))),
            _ => Err(Stop(Why::RunIsOver)),
        }
    }
}

/// A load test whose virtual users are written in Rust.
///
/// ```no_run
/// use procession_load::plan::Pacing;
/// use procession_load::users::{Scenario, Stop, User};
/// use std::time::Duration;
///
/// async fn buy(user: User) -> Result<(), Stop> {
///     let login = user.step("login", user.request("POST", "/login").body(b"{}", "application/json").send());
///     if login.await?.body().is_empty() {
///         return Err(Stop::rejected("no token"));
///     }
///     user.think(Duration::from_millis(500)).await?;
///     user.get("/cart").await?;
///     Ok(())
/// }
///
/// let result = Scenario::new("buy", buy)
///     .base_url("http://127.0.0.1:8000")
///     .pacing(Pacing::users(100))
///     .duration(Duration::from_secs(30))
///     .run()?;
/// println!("{:?}, p99 {:.3} s", result.verdict.outcome, result.latency.response.p99);
/// # Ok::<(), procession_load::Error>(())
/// ```
#[derive(Debug)]
pub struct Scenario<V> {
    user: V,
    plan: Plan,
    client: ClientOptions,
}

impl<V: VirtualUser> Scenario<V> {
    /// A test of one user for ten seconds.
    pub fn new(name: &str, user: V) -> Scenario<V> {
        Scenario {
            user,
            plan: Plan::new(
                Target::Custom {
                    name: name.to_owned(),
                },
                Pacing::users(1),
            ),
            client: ClientOptions::default(),
        }
    }

    /// When iterations begin.
    pub fn pacing(mut self, pacing: Pacing) -> Scenario<V> {
        if pacing.staged_duration().is_some() {
            self.plan.duration = None;
        }
        self.plan.pacing = pacing;
        self
    }

    /// How long iterations begin.
    pub fn duration(mut self, duration: Duration) -> Scenario<V> {
        self.plan.duration = Some(duration);
        self
    }

    /// What URLs without a host are relative to.
    pub fn base_url(mut self, url: &str) -> Scenario<V> {
        self.client.base_url = Some(url.to_owned());
        self
    }

    /// How servers at `https` URLs prove who they are, and who we are.
    pub fn tls(mut self, options: TlsOptions) -> Scenario<V> {
        self.client.tls = options;
        self
    }

    /// Which version of HTTP its users speak; HTTP/1.1 if nothing is said. Over HTTP/2 the requests of a user to one server
    /// share a connection, where several may be under way.
    pub fn version(mut self, version: HttpVersion) -> Scenario<V> {
        self.client.version = version;
        self
    }

    /// How many redirects of each request are followed, also to other servers; none if nothing is said.
    pub fn redirects(mut self, most: u32) -> Scenario<V> {
        self.client.redirects = most;
        self
    }

    /// Changes anything else of the plan.
    pub fn plan(mut self, change: impl FnOnce(&mut Plan)) -> Scenario<V> {
        change(&mut self.plan);
        self
    }

    /// Begins it.
    ///
    /// # Errors
    ///
    /// As [`Run::start`].
    pub fn start(self) -> Result<Run> {
        let name = match &self.plan.target {
            Target::Custom { name } => name.clone(),
            _ => "iteration".to_owned(),
        };
        self.client.check(&self.plan).map_err(crate::Error::plan)?;
        let users = RustUsers {
            user: self.user,
            client: self.client,
            name,
        };
        Run::start_workload(self.plan, Arc::new(users), ForkHooks::default())
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// As [`Scenario::start`].
    pub fn run(self) -> Result<crate::result::RunResult> {
        self.start()?.finish()
    }
}

struct RustUsers<V> {
    user: V,
    client: ClientOptions,
    name: String,
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl<V: VirtualUser> Workload for RustUsers<V> {
    fn run(&self, worker: &mut Worker) -> std::result::Result<(), String> {
        let desk = Arc::new(Desk::new());
        let _opened = desk.open(worker);
        let crew = Crew::new(Arc::clone(&desk), self.client.clone(), &self.name)?;
        let epoll = crew.epoll();
        let shared = Rc::new(Shared {
            crew: RefCell::new(crew),
            desk: Arc::clone(&desk),
            waiting: RefCell::default(),
            outcomes: RefCell::default(),
            ready: RefCell::default(),
            current: Cell::new(0),
        });
        desk.wait_for_start();
        let mut tasks: Vec<Option<Task<'_>>> = Vec::new();
        let mut alive = 0;
        let mut found = Found::default();
        loop {
            for _ in 0..desk.users_to_start() {
                let index = shared.crew.borrow_mut().enter();
                let user = User {
                    shared: Rc::clone(&shared),
                    index,
                };
                tasks.push(Some(Box::pin(self.live(user))));
                shared.ready.borrow_mut().push(tasks.len() - 1);
                alive += 1;
            }
            let ready = shared.ready.take();
            for task in ready {
                shared.current.set(task);
                let Some(future) = &mut tasks[task] else { continue };
                let mut context = Context::from_waker(Waker::noop());
                if future.as_mut().poll(&mut context).is_ready() {
                    tasks[task] = None;
                    alive -= 1;
                }
            }
            if alive == 0 && (!desk.is_busy() || desk.phase() == Phase::Over) {
                desk.finish(&self.name);
                return desk.refusal().map_or(Ok(()), Err);
            }
            let armed = shared
                .crew
                .borrow_mut()
                .arm()
                .map_err(|error| error.to_string())?;
            let has_work = armed || !shared.ready.borrow().is_empty();
            let most_ns = if has_work { 0 } else { TURN_NS };
            match Engine::wait(epoll.as_fd(), most_ns, &mut found) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
                Ok(()) => shared.crew.borrow_mut().handle(&found),
            }
            shared.deliver();
        }
    }
}

impl<V: VirtualUser> RustUsers<V> {
    /// A user's life.
    async fn live(&self, user: User) {
        loop {
            let begin = user.shared.crew.borrow_mut().begin(user.index);
            match begin {
                Begin::Now => {}
                Begin::Never => break,
                Begin::When(ticket) => match user.wait(ticket).await {
                    Outcome::Stopped => break,
                    _ => continue,
                },
            }
            let result = self.user.iterate(user.clone()).await;
            let mut crew = user.shared.crew.borrow_mut();
            match result {
                Ok(()) => crew.end(user.index, None, false),
                Err(Stop(Why::Failed(failure, is_counted))) => {
                    crew.end(user.index, Some(&failure), is_counted)
                }
                Err(Stop(Why::RunIsOver)) => break,
            }
        }
        user.shared.crew.borrow_mut().leave(user.index);
    }
}
