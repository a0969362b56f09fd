//! `nats-ring dev`: started, one loop over everything that happens, ended in order.
//!
//! In: signals, keys, requests from a second terminal, events of the processes. Out: the live view or one line per event,
//! answers, and nothing left behind.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::args::RunArgs;
use super::base::{Base, find_server, print};
use super::board::{Board, Readings};
use super::command::{self, Command, Verb};
use super::control::{self, Asked, Control};
use super::fleet::{Fleet, Ground, Refusal};
use super::hints;
use super::keeper::Keeper;
use super::member::State;
use super::node::{NodeEvent, Recipe};
use super::pending::{Pending, Until};
use super::screen::{Action, Screen};
use super::server::{Server, is_free};
use super::status::{self, Whole};
use super::view::Picture;
use crate::cli::exit::{Code, Failure};
use crate::cli::signals::Signals;
use crate::connect::{ConnectOptions, Connection};
use crate::types::{BootClock, Clock, Time};

/// How often the view is drawn anew and deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long the first nodes may take to be ready and to share out all partitions.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Commands whose answers may be outstanding at once.
const PENDING_MAX: usize = 64;
const ZONES_DEFAULT: u16 = 3;

/// Everything that runs.
struct Dev {
    ring: String,
    nats: String,
    logs: String,
    fleet: Fleet,
    board: Board,
    control: Control,
    server: Option<Server>,
    screen: Option<Screen>,
    pending: Vec<Pending>,
    started: Time,
    running: bool,
    selected: usize,
    wants_try: bool,
}

/// Runs it until it is asked to end, or cannot go on.
pub(super) async fn run(args: RunArgs) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let plain = args.plain || !Screen::is_possible();
    let nodes = args.nodes;
    check_ports(&args)?;
    let (base, keeper) = Base::open(args.logs.clone())?;
    let mut dev = tokio::select! {
        dev = prepare(&args, &base, keeper) => dev?,
        _ = signals.next() => return Ok(()),
    };
    if !plain {
        let screen = Screen::open().map_err(|error| Failure::internal("the terminal cannot be used", error))?;
        dev.screen = Some(screen);
    }
    let ended = dev.start_nodes(nodes);
    let ended = match ended {
        Ok(()) => dev.live(&mut signals).await,
        Err(failure) => Err(failure),
    };
    dev.end(&mut signals).await;
    if base.keeps_logs {
        print(&format!("all ended; logs are in {}", base.logs.display()));
    } else {
        print("all ended");
    }
    ended
}

fn check_ports(args: &RunArgs) -> Result<(), Failure> {
    let first = args.http_from;
    let mut ports = (0..args.nodes).filter_map(|at| first.checked_add(at));
    let Some(taken) = ports.find(|port| first != 0 && !is_free(*port)) else { return Ok(()) };
    let message = format!("port {taken} is taken: end what listens there, or choose others with --http-from 18081");
    Err(Failure::new(Code::Http, message))
}

async fn prepare(args: &RunArgs, base: &Base, mut keeper: Keeper) -> Result<Dev, Failure> {
    let (ring, existing) = control::target(&args.at)?;
    let (server, options) = if args.at.nats.is_some() {
        (None, existing)
    } else {
        let (found, port) = find_server(args.nats_port).await?;
        if port != args.nats_port {
            let asked = args.nats_port;
            print(&format!(
                "port {asked} is taken, what listens there stays as it is: this ring's NATS gets port {port}"
            ));
        }
        let server = base.start_server(&found, port, &mut keeper).await?;
        print(&format!("NATS {} on {} (pid {}, {})", found.version, server.url, server.pid, found.program.display()));
        let options = ConnectOptions::new([server.url.clone()]);
        (Some(server), options)
    };
    let nats = options.servers_without_users();
    let control = Control::open(Connection::open(&options).await?, &ring).await?;
    let forget = Base::forget(server.is_some());
    let recipe = Recipe {
        program: base.program.clone(),
        nats: options.servers.join(","),
        ring: ring.clone(),
        forget,
        flags: args.flags(),
    };
    let zones = args.zones.unwrap_or_else(|| args.nodes.min(ZONES_DEFAULT));
    let ground = Ground { recipe, zones: zones.into(), http_from: args.http_from, logs: base.logs.clone() };
    Ok(Dev {
        ring,
        nats,
        logs: base.logs.display().to_string(),
        fleet: Fleet::new(ground, keeper),
        board: Board::default(),
        control,
        server,
        screen: None,
        pending: Vec::new(),
        started: BootClock.now(),
        running: false,
        selected: 0,
        wants_try: false,
    })
}

impl Dev {
    fn up(&self) -> Duration {
        BootClock.now().since(self.started)
    }

    fn say(&mut self, text: String) {
        if self.screen.is_none() {
            print(&format!("{:>7.1} s  {text}", self.up().as_secs_f64()));
        }
        self.board.note(self.up(), text);
    }

    fn start_nodes(&mut self, count: u16) -> Result<(), Failure> {
        for _ in 0..count {
            let (_, line) =
                self.fleet.add(None).map_err(|refusal| Failure::new(Code::Internal, refusal.to_string()))?;
            self.say(line);
        }
        Ok(())
    }

    async fn live(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = signals.next() => return Ok(()),
                Some(event) = self.fleet.next() => self.hear(event),
                asked = self.control.next() => self.asked(asked).await,
                action = next_action(&mut self.screen) => {
                    if action == Action::Quit {
                        return Ok(());
                    }
                    self.act(action);
                    self.draw()?;
                }
                reason = server_ended(&mut self.server) => return Err(Failure::new(Code::Nats, reason)),
                _ = ticks.tick() => self.draw()?,
            }
            self.check_start()?;
            self.settle().await;
        }
    }

    fn hear(&mut self, event: NodeEvent) {
        let mut lines = self.fleet.hear(event);
        let members = self.fleet.members.iter();
        let runs = members.filter(|m| m.process.is_some() && !matches!(m.state, State::Frozen | State::Silent));
        let readings: Readings<'_> = runs.map(|member| (member.name.as_str(), member.reading.as_ref())).collect();
        lines.extend(self.board.look(&readings, BootClock.now()));
        lines.into_iter().for_each(|line| self.say(line));
    }

    /// Until all are ready for the first time, a node that ends is a start that failed.
    fn check_start(&mut self) -> Result<(), Failure> {
        if self.running {
            return Ok(());
        }
        let members = &self.fleet.members;
        if let Some(failed) = members.iter().find(|member| member.failed) {
            let why = failed.state.detail().unwrap_or_default();
            return Err(Failure::new(Code::Internal, format!("{} did not start ({why})", failed.name)));
        }
        if members.iter().all(|member| member.state == State::Ready) && self.board.is_complete() {
            self.running = true;
            self.tell_what_to_try();
        } else if self.up() > START_LIMIT {
            let states: Vec<String> = members.iter().map(|m| format!("{} {}", m.name, m.state.word())).collect();
            let message =
                format!("not all nodes are ready within {START_LIMIT:?}: {}; see {}", states.join(", "), self.logs);
            return Err(Failure::new(Code::Internal, message));
        }
        Ok(())
    }

    fn tell_what_to_try(&mut self) {
        if self.screen.is_some() {
            return;
        }
        print(&format!("\nThe ring '{}' runs: NATS on {}. Logs: {}\n", self.ring, self.nats, self.logs));
        print("Try, in another terminal:");
        self.hints().iter().for_each(|line| print(&format!("  {line}")));
        print("\nCtrl-C ends all.\n");
    }

    fn hints(&self) -> Vec<String> {
        let address = |m: &super::member::Member| m.process.as_ref().and(m.address);
        let nodes: Vec<(&str, SocketAddr)> =
            self.fleet.members.iter().filter_map(|m| Some((m.name.as_str(), address(m)?))).collect();
        let installed = "nats/.bin/nats";
        let nats_cli = if std::path::Path::new(installed).is_file() { installed } else { "nats" };
        let program = std::env::args().next().unwrap_or_else(|| "nats-ring".to_owned());
        hints::lines(&hints::Where { ring: &self.ring, nats: &self.nats, program: &program, nats_cli, nodes: &nodes })
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let (up, to_try) = (self.up(), self.hints());
        let Some(screen) = &mut self.screen else { return Ok(()) };
        let title = format!(" nats-ring dev · ring {} · NATS {} · {:.0} s", self.ring, self.nats, up.as_secs_f64());
        let picture = Picture {
            title,
            members: &self.fleet.members,
            board: &self.board,
            selected: self.selected,
            wants_try: self.wants_try,
            to_try: &to_try,
        };
        screen.draw(&picture).map_err(|error| Failure::internal("the terminal cannot be drawn on", error))
    }

    fn act(&mut self, action: Action) {
        let count = self.fleet.members.len();
        let command = match action {
            Action::Up => return self.selected = self.selected.saturating_sub(1),
            Action::Down => return self.selected = (self.selected + 1).min(count.saturating_sub(1)),
            Action::Select(at) => return self.selected = if at < count { at } else { self.selected },
            Action::ToggleTry => return self.wants_try = !self.wants_try,
            Action::Quit | Action::Redraw => return,
            Action::Add => Command::Add(None),
            Action::Do(verb) => Command::Do(verb, self.selected_name()),
            Action::FreezeOrThaw => {
                let frozen = self.fleet.members.get(self.selected).is_some_and(|m| m.state == State::Frozen);
                Command::Do(if frozen { Verb::Thaw } else { Verb::Freeze }, self.selected_name())
            }
        };
        if let Err(refusal) = self.begin(command, None) {
            self.say(refusal.to_string());
        }
    }

    fn selected_name(&self) -> String {
        self.fleet.members.get(self.selected).map_or_else(String::new, |member| member.name.clone())
    }

    async fn asked(&mut self, asked: Asked) {
        let Asked { command, reply } = asked;
        let answer = match command {
            Err(reason) => command::failed("bad_request", &reason),
            Ok(Command::Status) => self.status(),
            Ok(_) if self.pending.len() >= PENDING_MAX => {
                command::failed("overloaded", "too many commands wait for their end: try again")
            }
            Ok(command) => match self.begin(command, reply.clone()) {
                Ok(()) => return,
                Err(refusal) => command::failed(refusal.code(), &refusal.to_string()),
            },
        };
        self.control.answer(reply, &answer).await;
    }

    /// Does it, and remembers to answer when it has come about.
    fn begin(&mut self, command: Command, reply: Option<String>) -> Result<(), Refusal> {
        let (at, line, until) = match command {
            Command::Status => return Ok(()),
            Command::Add(name) => {
                let (at, line) = self.fleet.add(name)?;
                (at, line, Until::Ready)
            }
            Command::Do(verb, node) => {
                let at = self.fleet.find(&node)?;
                let (line, until) = match verb {
                    Verb::Stop => (self.fleet.stop(at)?, Until::Ended),
                    Verb::Kill => (self.fleet.kill(at)?, Until::Ended),
                    Verb::Restart => (self.fleet.restart(at)?, Until::Ready),
                    Verb::Freeze => (self.fleet.freeze(at)?, Until::Now),
                    Verb::Thaw => (self.fleet.thaw(at)?, Until::Now),
                };
                (at, line, until)
            }
        };
        let member = &self.fleet.members[at];
        // A restart is done by the process after the one that still ends.
        let life = member.life + u64::from(member.again);
        let pending = Pending { reply, node: member.name.clone(), life, until, since: BootClock.now() };
        self.say(line);
        if pending.reply.is_some() {
            self.pending.push(pending);
        }
        Ok(())
    }

    /// Answers what has come about, and what will not any more.
    async fn settle(&mut self) {
        let now = BootClock.now();
        let mut open = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            match pending.outcome(&self.fleet.members, now) {
                Some(answer) => self.control.answer(pending.reply, &answer).await,
                None => open.push(pending),
            }
        }
        self.pending = open;
    }

    fn status(&self) -> Value {
        let members = &self.fleet.members;
        status::json(&Whole { ring: &self.ring, nats: &self.nats, up: self.up(), members, board: &self.board })
    }

    /// Ends everything in order: nodes drain while NATS still runs. A further signal hurries.
    async fn end(mut self, signals: &mut Signals) {
        // The terminal is given back first: what follows stays to be read.
        drop(self.screen.take());
        if self.fleet.any_runs() {
            print("ending the nodes (they hand over and drain) …");
        }
        let started = self.started;
        let say = |line: String| print(&format!("{:>7.1} s  {line}", BootClock.now().since(started).as_secs_f64()));
        let hurry = async {
            signals.next().await;
        };
        self.fleet.end(hurry, say).await;
        if let Some(server) = self.server.take() {
            server.end().await;
        }
    }
}

async fn next_action(screen: &mut Option<Screen>) -> Action {
    match screen {
        Some(screen) => screen.next().await,
        None => std::future::pending().await,
    }
}

async fn server_ended(server: &mut Option<Server>) -> String {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}
