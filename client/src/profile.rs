//! Profiles: where a user keeps what it takes to reach a cluster.
//!
//! A profile is one TOML file (see [`Contents`]). Named profiles lie in the user's
//! configuration directory, `~/.config/flumen/profiles/NAME.toml` on Linux
//! (`$XDG_CONFIG_HOME` is honoured), and the file `default` beside that directory holds the
//! name of the one that is used when nothing else is said. The `flumen` command uses the
//! same functions.

mod file;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

pub use flumen_protocol::profile::Profile as Contents;
use flumen_protocol::topic::{InvalidName, Name};

/// The environment variable that names a profile or its file.
pub const PROFILE_VARIABLE: &str = "FLUMEN_PROFILE";

/// Why a profile cannot be used. Messages name the file and say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Nothing says which profile to use.
    #[error(
        "no profile is chosen: {} does not exist; `flumen dev` starts a broker and makes a default profile, \
         `flumen profile add NAME FILE` takes over the client.toml of another one, \
         `flumen profile use NAME` chooses one, {PROFILE_VARIABLE}=NAME|FILE names one for a single command",
        path.display()
    )]
    NoDefault {
        /// The file that would hold the name of the default profile.
        path: PathBuf,
    },
    /// The profile's file does not exist.
    #[error(
        "profile {} does not exist; `flumen dev` or `flumen profile add NAME FILE` makes one, \
         `flumen profile list` shows those that are there",
        path.display()
    )]
    NotFound {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file that was named instead of a profile does not exist.
    #[error(
        "the file {} does not exist; every broker writes such a file, client.toml, into its data \
         directory, and `flumen profile list` shows the profiles that have a name",
        path.display()
    )]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// The profile's file is there but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile's file is not of the form.
    #[error(
        "profile {} is not valid: {text}; every broker writes a valid one into its data directory, client.toml",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        text: String,
    },
    /// There is a profile of that name already.
    #[error("profile {name} exists already: {}", path.display())]
    Exists {
        /// The name.
        name: Name,
        /// Its file.
        path: PathBuf,
    },
    /// A profile cannot have this name.
    #[error("profile cannot be named so: {0}")]
    Name(#[from] InvalidName),
    /// A profile cannot have this name, because it would be taken for the path of a file.
    #[error("a profile cannot be named {name}: that is taken for a file; leave .toml away")]
    NamedAsFile {
        /// The name.
        name: Name,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user has no home directory to look in.
    #[error("no configuration directory: set HOME or XDG_CONFIG_HOME, or name a profile's file")]
    NoDirectory,
}

/// What it takes to reach a cluster: addresses, authority and credential, as one TOML file.
///
/// Every broker writes such a file, `client.toml`, into its data directory.
///
/// ```no_run
/// use flumen_client::Profile;
///
/// let default = Profile::load(None)?;
/// let named = Profile::load(Some("staging"))?;
/// let from_file = Profile::load(Some("/var/lib/flumen/client.toml"))?;
/// # Ok::<(), flumen_client::ProfileError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile(Contents);

impl Profile {
    /// Loads the profile to use: `wanted` if given, else what [`PROFILE_VARIABLE`] says, else
    /// the default profile. Either may be the name of a profile or the path of a file; a text
    /// with a `/` or that ends in `.toml` is a path.
    pub fn load(wanted: Option<&str>) -> Result<Self, ProfileError> {
        let from_environment = env::var(PROFILE_VARIABLE).ok();
        let from_environment = from_environment.filter(|value| !value.trim().is_empty());
        match wanted.or(from_environment.as_deref()) {
            Some(wanted) if is_path(wanted) => Self::read(Path::new(wanted)),
            Some(name) => Profiles::of_user()?.load(name),
            None => Profiles::of_user()?.load_default(),
        }
    }

    /// Reads one profile's file.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let text = fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ProfileError::NoFile {
                path: path.to_owned(),
            },
            _ => ProfileError::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        Self::parse(&text, path)
    }

    /// Reads a profile from text; errors say that it is from `origin`.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ProfileError> {
        let contents = toml::from_str(text).map_err(|error| ProfileError::Invalid {
            path: origin.to_owned(),
            text: error.to_string().trim_end().to_owned(),
        })?;
        Ok(Self(contents))
    }

    /// What the file says.
    pub fn contents(&self) -> &Contents {
        &self.0
    }
}

impl From<Contents> for Profile {
    fn from(contents: Contents) -> Self {
        Self(contents)
    }
}

impl From<Profile> for Contents {
    fn from(profile: Profile) -> Self {
        profile.0
    }
}

/// The profiles in one directory.
#[derive(Clone, Debug)]
pub struct Profiles {
    directory: PathBuf,
}

impl Profiles {
    /// The profiles of the user who runs this.
    pub fn of_user() -> Result<Self, ProfileError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let config = match (set("XDG_CONFIG_HOME"), set("HOME"), set("APPDATA")) {
            (Some(config), _, _) => PathBuf::from(config),
            (None, Some(home), _) => PathBuf::from(home).join(".config"),
            (None, None, Some(roaming)) => PathBuf::from(roaming),
            (None, None, None) => return Err(ProfileError::NoDirectory),
        };
        Ok(Self::in_directory(config.join("flumen")))
    }

    /// The profiles in `directory`, which need not exist yet.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Loads the profile of that name.
    pub fn load(&self, name: &str) -> Result<Profile, ProfileError> {
        Profile::read(&self.path(&Name::new(name)?)).map_err(|error| match error {
            ProfileError::NoFile { path } => ProfileError::NotFound { path },
            error => error,
        })
    }

    /// Loads the default profile.
    pub fn load_default(&self) -> Result<Profile, ProfileError> {
        match self.default_name()? {
            Some(name) => self.load(&name),
            None => Err(ProfileError::NoDefault {
                path: self.default_path(),
            }),
        }
    }

    /// The name of the default profile, if one is chosen.
    pub fn default_name(&self) -> Result<Option<String>, ProfileError> {
        let path = self.default_path();
        match fs::read_to_string(&path) {
            Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ProfileError::Read { path, source }),
        }
    }

    /// The names of all profiles, in order.
    pub fn list(&self) -> Result<Vec<String>, ProfileError> {
        let path = self.profiles_path();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(ProfileError::Read { path, source }),
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| {
                let file_name = entry.ok()?.file_name();
                let name = file_name.to_str()?.strip_suffix(".toml")?;
                Name::new(name).ok().map(String::from)
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Makes the profile of that name the default; it must exist.
    pub fn make_default(&self, name: &str) -> Result<(), ProfileError> {
        let _lock = file::lock(&self.profiles_path());
        self.load(name)?;
        let path = self.default_path();
        file::write(&path, &format!("{name}\n"))
            .map_err(|source| ProfileError::Write { path, source })
    }

    /// Removes the profile of that name; it must exist. If it is the default, there is none
    /// afterwards.
    pub fn remove(&self, name: &str) -> Result<(), ProfileError> {
        let path = self.path(&Name::new(name)?);
        let _lock = file::lock(&self.profiles_path());
        let was_default = self.default_name()?.as_deref() == Some(name);
        fs::remove_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ProfileError::NotFound { path },
            _ => ProfileError::Write { path, source },
        })?;
        let default = self.default_path();
        if was_default && let Err(source) = fs::remove_file(&default) {
            return Err(ProfileError::Write {
                path: default,
                source,
            });
        }
        Ok(())
    }

    /// Saves a profile under a name that no other has, as [`Profiles::save`] does.
    pub fn add(&self, name: &str, profile: &Profile) -> Result<PathBuf, ProfileError> {
        let name = Name::new(name)?;
        let _lock = self.lock()?;
        let path = self.path(&name);
        if path.exists() {
            return Err(ProfileError::Exists { name, path });
        }
        self.write(name, profile)
    }

    /// Saves a profile under a name, for its owner's eyes only (mode 0600), in one step:
    /// a reader sees the old file or the new one. Returns the file.
    pub fn save(&self, name: &str, profile: &Profile) -> Result<PathBuf, ProfileError> {
        let name = Name::new(name)?;
        let _lock = self.lock()?;
        self.write(name, profile)
    }

    /// As [`Profiles::save`], by who holds the lock.
    fn write(&self, name: Name, profile: &Profile) -> Result<PathBuf, ProfileError> {
        if is_path(name.as_str()) {
            return Err(ProfileError::NamedAsFile { name });
        }
        let path = self.path(&name);
        match file::write(&path, &text_of(profile, &path)?) {
            Ok(()) => Ok(path),
            Err(source) => Err(ProfileError::Write { path, source }),
        }
    }

    /// Has a profile name other brokers. Nothing is written where it names them already, where it
    /// is not what it was when `loaded`, where somebody else writes profiles, or where its file is a
    /// link or would get another owner, group or mode. Tells whether it was written.
    pub fn refresh(
        &self,
        name: &str,
        loaded: &Profile,
        brokers: Vec<String>,
    ) -> Result<bool, ProfileError> {
        let path = self.path(&Name::new(name)?);
        if brokers.is_empty() || loaded.0.brokers == brokers {
            return Ok(false);
        }
        let Some(_lock) = file::try_lock(&self.profiles_path()) else {
            return Ok(false);
        };
        if self.load(name)? != *loaded {
            return Ok(false);
        }
        let mut profile = loaded.clone();
        profile.0.brokers = brokers;
        let text = text_of(&profile, &path)?;
        file::write_again(&path, &text).map_err(|source| ProfileError::Write { path, source })
    }

    /// Keeps others from writing profiles, in a directory that is made if it is not there.
    fn lock(&self) -> Result<Option<fs::File>, ProfileError> {
        let path = self.profiles_path();
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(file::lock(&path)),
            Err(source) => Err(ProfileError::Write { path, source }),
        }
    }

    /// The file of the profile of that name.
    fn path(&self, name: &Name) -> PathBuf {
        self.profiles_path().join(format!("{name}.toml"))
    }

    fn profiles_path(&self) -> PathBuf {
        self.directory.join("profiles")
    }

    fn default_path(&self) -> PathBuf {
        self.directory.join("default")
    }
}

/// Whether a text that says which profile to use is the path of a file, and no name: it has a `/`
/// in it, or ends in `.toml`.
pub fn is_path(text: &str) -> bool {
    text.contains(std::path::is_separator)
        || Path::new(text)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

fn text_of(profile: &Profile, path: &Path) -> Result<String, ProfileError> {
    toml::to_string(&profile.0).map_err(|error| ProfileError::Invalid {
        path: path.to_owned(),
        text: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Profile {
        Profile(Contents {
            brokers: vec!["localhost:4650".to_owned()],
            ca: "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n".to_owned(),
            token: Some("secret".to_owned()),
            ..Contents::default()
        })
    }

    #[test]
    fn a_saved_profile_loads_equal_and_can_be_made_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        assert_eq!(profiles.list().unwrap(), Vec::<String>::new());
        profiles.save("staging", &sample()).unwrap();
        profiles.save("dev", &sample()).unwrap();
        profiles.make_default("dev").unwrap();
        assert_eq!(profiles.list().unwrap(), ["dev", "staging"]);
        assert_eq!(profiles.default_name().unwrap().as_deref(), Some("dev"));
        assert_eq!(profiles.load_default().unwrap(), sample());
    }

    #[test]
    fn a_removed_profile_is_gone_also_as_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        for name in ["dev", "staging"] {
            profiles.save(name, &sample()).unwrap();
        }
        profiles.make_default("dev").unwrap();
        profiles.remove("staging").unwrap();
        assert_eq!(profiles.default_name().unwrap().as_deref(), Some("dev"));
        profiles.remove("dev").unwrap();
        assert_eq!(profiles.default_name().unwrap(), None);
        assert_eq!(profiles.list().unwrap(), Vec::<String>::new());
        let error = profiles.remove("dev").unwrap_err();
        assert!(matches!(error, ProfileError::NotFound { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_profile_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = Profiles::in_directory(directory.path())
            .save("dev", &sample())
            .unwrap();
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn refresh(profiles: &Profiles) -> Result<bool, ProfileError> {
        let brokers = vec!["a:1".to_owned(), "b:1".to_owned()];
        profiles.refresh("dev", &sample(), brokers)
    }

    #[test]
    fn a_profile_that_is_as_it_was_is_refreshed_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        profiles.save("dev", &sample()).unwrap();
        assert!(refresh(&profiles).unwrap());
        assert_eq!(profiles.load("dev").unwrap().0.brokers, ["a:1", "b:1"]);
        assert!(!refresh(&profiles).unwrap());
        profiles.remove("dev").unwrap();
        assert!(refresh(&profiles).is_err());
        assert_eq!(profiles.list().unwrap(), Vec::<String>::new());
    }

    #[cfg(unix)]
    #[test]
    fn a_refresh_changes_neither_the_mode_of_a_file_nor_what_a_link_leads_to() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        let path = profiles.save("dev", &sample()).unwrap();
        let kept = path.with_file_name("kept");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!refresh(&profiles).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&path, &kept).unwrap();
        assert!(!refresh(&profiles).unwrap());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&kept, &path).unwrap();
        assert!(!refresh(&profiles).unwrap());
        assert_eq!(profiles.load("dev").unwrap(), sample());
        // No temporary file is left.
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 2);
        fs::rename(&kept, &path).unwrap();
        assert!(refresh(&profiles).unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn a_refresh_stays_out_of_the_way_of_who_writes_profiles() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        profiles.save("dev", &sample()).unwrap();
        let lock = file::lock(&profiles.profiles_path()).unwrap();
        assert!(!refresh(&profiles).unwrap());
        // Who is asked by the user waits.
        std::thread::scope(|scope| {
            let other = Profile::default();
            let save = scope.spawn(|| profiles.save("dev", &Profile::default()).unwrap());
            assert_eq!(profiles.load("dev").unwrap(), sample());
            drop(lock);
            save.join().unwrap();
            assert_eq!(profiles.load("dev").unwrap(), other);
        });
    }

    #[test]
    fn nothing_is_left_of_a_file_that_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        let path = profiles.save("dev", &sample()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("in the way")).unwrap();
        let error = profiles.save("dev", &sample()).unwrap_err();
        assert!(matches!(error, ProfileError::Write { .. }), "{error}");
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1);
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        let text = profiles.load_default().unwrap_err().to_string();
        assert!(
            text.contains("default") && text.contains("flumen dev"),
            "{text}"
        );
        let text = profiles.load("absent").unwrap_err().to_string();
        assert!(
            text.contains("absent.toml") && text.contains("flumen dev"),
            "{text}"
        );
        let path = profiles.save("odd", &sample()).unwrap();
        fs::write(&path, "brokers = 3").unwrap();
        let text = profiles.load("odd").unwrap_err().to_string();
        assert!(
            text.contains("odd.toml") && text.contains("brokers"),
            "{text}"
        );
        assert!(profiles.load("../escape").is_err());
        assert!(profiles.make_default("absent").is_err());
    }

    #[test]
    fn a_profile_is_added_once() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        profiles.add("staging", &sample()).unwrap();
        let error = profiles.add("staging", &Profile::default()).unwrap_err();
        assert!(matches!(error, ProfileError::Exists { .. }), "{error}");
        assert_eq!(profiles.load("staging").unwrap(), sample());
    }

    #[test]
    fn a_file_that_is_not_there_is_no_profile_that_is_not_there() {
        let error = Profile::load(Some("/nope")).unwrap_err();
        assert!(matches!(error, ProfileError::NoFile { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("the file /nope does not exist"), "{text}");
        let profiles = Profiles::in_directory("/nope");
        let error = profiles.load("nope").unwrap_err();
        assert!(matches!(error, ProfileError::NotFound { .. }), "{error}");
    }

    #[test]
    fn no_profile_has_a_name_that_is_taken_for_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_directory(directory.path());
        for saved in [
            profiles.save("prod.toml", &sample()),
            profiles.add("prod.toml", &sample()),
        ] {
            let error = saved.unwrap_err();
            assert!(matches!(error, ProfileError::NamedAsFile { .. }), "{error}");
        }
    }

    #[test]
    fn what_looks_like_a_path_is_one() {
        assert!(is_path("./client.toml") && is_path("client.toml") && is_path("/a/b"));
        assert!(!is_path("dev"));
    }
}
