//! What the server says of itself: lines on its standard error, metrics for Prometheus, and both as
//! traces and metrics of OpenTelemetry where its usual variables say where to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where OpenTelemetry's data goes, such as `http://localhost:4318`; without it nowhere. The other
/// variables of its specification are read, too.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// How long a collector may take for one batch.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has to be sent off at the end.
#[derive(Default)]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Begins to say what happens. The authorities are those of a collector with TLS.
    pub(crate) fn start(runtime: &Handle, authorities: Arc<ClientConfig>) -> Result<Self> {
        let mut this = Self::default();
        if std::env::var_os(ENDPOINT).is_some() {
            let client = Collector {
                runtime: runtime.clone(),
                authorities,
            };
            let resource = Resource::builder().with_service_name("arm_server").build();
            let spans = SpanExporter::builder().with_http();
            let spans = spans.with_http_client(client.clone()).build()?;
            this.traces = Some(
                SdkTracerProvider::builder()
                    .with_batch_exporter(spans)
                    .with_resource(resource.clone())
                    .build(),
            );
            let values = MetricExporter::builder().with_http();
            let values = values.with_http_client(client).build()?;
            this.metrics = Some(
                SdkMeterProvider::builder()
                    .with_periodic_exporter(values)
                    .with_resource(resource)
                    .build(),
            );
        }
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let traces = this.traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer().with_tracer(traces.tracer("container-groups"))
        });
        tracing_subscriber::registry()
            .with(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
            .with(lines)
            .with(traces)
            .init();
        Ok(this)
    }

    /// Begins to count; the handle renders for Prometheus.
    pub(crate) fn count(&self) -> Result<PrometheusHandle> {
        let prometheus = PrometheusBuilder::new().build_recorder();
        let handle = prometheus.handle();
        let both = metrics_util::layers::FanoutBuilder::default().add_recorder(prometheus);
        let recorder = match &self.metrics {
            Some(provider) => {
                let bridge = Bridge::over(provider.meter("container-groups"));
                both.add_recorder(bridge).build()
            }
            None => both.build(),
        };
        metrics::set_global_recorder(recorder)
            .map_err(|_| anyhow!("this process has a recorder of metrics already"))?;
        Ok(handle)
    }

    /// Sends what is left. It waits for the collector, so not on a thread of the runtime.
    pub(crate) fn end(self) {
        if let Some(traces) = self.traces {
            let _ = traces.shutdown();
        }
        if let Some(metrics) = self.metrics {
            let _ = metrics.shutdown();
        }
    }
}

/// Posts batches. They come from threads of OpenTelemetry's, so the runtime is brought along.
#[derive(Clone, Debug)]
struct Collector {
    runtime: Handle,
    authorities: Arc<ClientConfig>,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let posting = post(request, Arc::clone(&self.authorities));
        // The timer is the runtime's: it is made inside.
        let posting = async { tokio::time::timeout(PATIENCE, posting).await? };
        self.runtime.spawn(posting).await?
    }
}

async fn post(
    request: Request<Bytes>,
    authorities: Arc<ClientConfig>,
) -> Result<Response<Bytes>, HttpError> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let plain = host.trim_matches(['[', ']']).to_owned();
    let tls = request.uri().scheme_str() == Some("https");
    let port = request.uri().port_u16();
    let stream = TcpStream::connect((&*plain, port.unwrap_or(if tls { 443 } else { 80 }))).await?;
    if tls {
        let name = ServerName::try_from(plain)?;
        let connector = TlsConnector::from(authorities);
        send(connector.connect(name, stream).await?, request).await
    } else {
        send(stream, request).await
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority() {
        parts
            .headers
            .insert(http::header::HOST, authority.as_str().parse()?);
    }
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    parts.uri = path.parse()?;
    let request = Request::from_parts(parts, Full::new(body));
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, 1 << 20).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// The `metrics` facade's values as OpenTelemetry's instruments. The facade counts gauges up and
/// down, which those do not, so their values are kept here.
struct Bridge {
    meter: Meter,
    counters: Kept<opentelemetry::metrics::Counter<u64>, u64>,
    gauges: Kept<opentelemetry::metrics::Gauge<f64>, f64>,
    histograms: Kept<opentelemetry::metrics::Histogram<f64>, ()>,
}

/// Instruments by name and labels.
type Kept<I, V> = Mutex<HashMap<String, Arc<Instrument<I, V>>>>;

struct Instrument<I, V> {
    inner: I,
    labels: Vec<KeyValue>,
    value: Mutex<V>,
}

impl Bridge {
    fn over(meter: Meter) -> Self {
        Self {
            meter,
            counters: Mutex::default(),
            gauges: Mutex::default(),
            histograms: Mutex::default(),
        }
    }
}

/// The instrument of a key, made where it is asked for the first time.
fn kept<I, V: Default>(
    map: &Kept<I, V>,
    key: &Key,
    make: impl FnOnce() -> I,
) -> Arc<Instrument<I, V>> {
    let label = |l: &metrics::Label| KeyValue::new(l.key().to_owned(), l.value().to_owned());
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = map.entry(key.to_string()).or_insert_with(|| {
        Arc::new(Instrument {
            inner: make(),
            labels: key.labels().map(label).collect(),
            value: Mutex::default(),
        })
    });
    Arc::clone(entry)
}

impl Recorder for Bridge {
    // Names say what they are; descriptions are Prometheus'.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let make = || self.meter.u64_counter(key.name().to_owned()).build();
        Counter::from_arc(kept(&self.counters, key, make))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let make = || self.meter.f64_gauge(key.name().to_owned()).build();
        Gauge::from_arc(kept(&self.gauges, key, make))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let make = || self.meter.f64_histogram(key.name().to_owned()).build();
        Histogram::from_arc(kept(&self.histograms, key, make))
    }
}

impl CounterFn for Instrument<opentelemetry::metrics::Counter<u64>, u64> {
    fn increment(&self, by: u64) {
        self.inner.add(by, &self.labels);
    }

    fn absolute(&self, value: u64) {
        let mut last = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.add(value.saturating_sub(*last), &self.labels);
        *last = value.max(*last);
    }
}

impl Instrument<opentelemetry::metrics::Gauge<f64>, f64> {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        *value = change(*value);
        self.inner.record(*value, &self.labels);
    }
}

impl GaugeFn for Instrument<opentelemetry::metrics::Gauge<f64>, f64> {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for Instrument<opentelemetry::metrics::Histogram<f64>, ()> {
    fn record(&self, value: f64) {
        self.inner.record(value, &self.labels);
    }
}
