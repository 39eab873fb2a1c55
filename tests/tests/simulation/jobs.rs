//! What services do, and the machines on which they do it: killed with them, and started again.

use std::{net::IpAddr, time::Duration};

use flumen_client::TopicConfig;

use crate::{checker::Place, clients::Services, host::Host, system};

/// What a service does.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    MakeTopic(String, TopicConfig),
    Produce(Place),
    /// A topic, under a name.
    Consume(String, String),
    /// A topic, and how many partitions it is to have.
    Grow(String, u32),
    Churn,
    Administrate,
}

/// A machine with services.
pub(crate) struct ServiceHost {
    pub(crate) host: Host,
    /// What its services do, once there are some.
    services: Option<Services>,
    jobs: Vec<Job>,
    /// How often it was started, which its services call themselves by.
    starts: u32,
    restart: Option<Duration>,
}

impl ServiceHost {
    /// A machine with nothing to do yet.
    pub(crate) fn new(number: u8) -> Self {
        Self {
            host: Host::new(format!("services {number}"), [10, 0, 1, number].into()),
            services: None,
            jobs: Vec::new(),
            starts: 0,
            restart: None,
        }
    }

    /// Starts a service, which is also started whenever the machine is.
    pub(crate) fn employ(&mut self, services: &Services, job: Job) {
        self.services = Some(services.clone());
        self.start(&job);
        self.jobs.push(job);
    }

    /// Kills all services; they are started again at a time.
    pub(crate) fn kill(&mut self, until: Duration) {
        if let Some(services) = &self.services {
            services.trace.say(format!("{} is killed", self.host.name));
        }
        self.host.turn_off();
        self.restart = Some(until);
    }

    /// Has it started at once if it is down.
    pub(crate) fn heal(&mut self) {
        self.restart = self.restart.map(|restart| restart.min(system::now()));
        self.look_after();
    }

    /// Starts what is due.
    pub(crate) fn look_after(&mut self) {
        if self.restart.is_some_and(|time| time <= system::now()) {
            self.restart = None;
            self.starts += 1;
            for job in std::mem::take(&mut self.jobs) {
                self.start(&job);
                self.jobs.push(job);
            }
        }
    }

    fn start(&mut self, job: &Job) {
        if let Some(services) = &self.services {
            let work = work(
                services.clone(),
                self.host.address,
                job.clone(),
                self.starts,
            );
            self.host.spawn(work);
        }
    }
}

async fn work(services: Services, host: IpAddr, job: Job, start: u32) {
    match job {
        Job::MakeTopic(topic, config) => services.make_topic(host, topic, config).await,
        Job::Produce(place) => services.produce(host, place).await,
        Job::Consume(topic, name) => {
            let name = format!("{name}.{start}");
            services.consume(host, topic, name).await;
        }
        Job::Grow(topic, partitions) => services.grow(host, topic, partitions).await,
        Job::Churn => services.churn(host, format!("again-{start}")).await,
        Job::Administrate => {
            let name = format!("passing-{start}");
            services.administrate(host, name).await;
        }
    }
}
