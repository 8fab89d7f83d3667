//! A web server beside the test, that ends with it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use outpost_transport::Identity;
use tokio::runtime::Runtime;

use crate::CertificateFolder;

/// A running web server on loopback.
pub struct WebServer {
    address: SocketAddr,
    /// Ends its calls with it.
    _runtime: Runtime,
}

impl WebServer {
    /// Starts one in the clear, on a port that the system chooses.
    pub fn start(router: Router) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), router)
    }

    /// Starts one in the clear at `address`.
    ///
    /// # Panics
    /// Where it is taken.
    pub fn start_at(address: SocketAddr, router: Router) -> Self {
        Self::serve(address, None, router)
    }

    /// Starts one that speaks TLS, on a port that the system chooses.
    pub fn start_tls(certificates: &CertificateFolder, router: Router) -> Self {
        Self::start_tls_at((Ipv4Addr::LOCALHOST, 0).into(), certificates, router)
    }

    /// Starts one that speaks TLS, at `address`.
    ///
    /// # Panics
    /// Where it is taken.
    pub fn start_tls_at(
        address: SocketAddr,
        certificates: &CertificateFolder,
        router: Router,
    ) -> Self {
        let identity = Identity::load(&certificates.chain(), &certificates.key()).unwrap();
        Self::serve(address, Some(identity), router)
    }

    fn serve(address: SocketAddr, identity: Option<Identity>, router: Router) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let service = router.into_make_service();
        runtime.spawn(async move {
            match identity {
                None => {
                    let server = axum_server::from_tcp(listener).unwrap();
                    server.serve(service).await
                }
                Some(identity) => {
                    let tls = RustlsConfig::from_config(identity.web_server_config());
                    let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
                    server.serve(service).await
                }
            }
        });
        Self {
            address,
            _runtime: runtime,
        }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An address on loopback that nobody listens at, and that no other test is given: below those that the system chooses.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(next % 10_000).expect("below 10,000");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
