//! Probes of a container's health.

use super::macros::{object, open_enum};

object! {
    /// A repeated check of a container: a command or an HTTP request, exactly one of the two.
    /// What is absent has the default that Kubernetes has.
    Probe {
        /// A command that succeeds with exit code 0.
        exec: Option<ExecAction> => "exec" [] "2018-06-01";
        /// A request that succeeds with a status of 200 to 399.
        http_get: Option<HttpGetAction> => "httpGet" [] "2018-06-01";
        /// Seconds from the container's start to the first check; default 0.
        initial_delay_seconds: Option<u32> => "initialDelaySeconds" [] "2018-06-01";
        /// Seconds between checks; default 10.
        period_seconds: Option<u32> => "periodSeconds" [] "2018-06-01";
        /// Failures in a row until the probe counts as failed; default 3.
        failure_threshold: Option<u32> => "failureThreshold" [] "2018-06-01";
        /// Successes in a row until a failed probe counts as passed; default 1.
        success_threshold: Option<u32> => "successThreshold" [] "2018-06-01";
        /// Seconds after which a check without an answer has failed; default 1.
        timeout_seconds: Option<u32> => "timeoutSeconds" [] "2018-06-01";
    }
}

object! {
    /// A command run in the container.
    ExecAction {
        /// The command in exec form; no shell is involved.
        command: Vec<String> => "command" [] "2018-06-01";
    }
}

object! {
    /// An HTTP request to the container.
    HttpGetAction {
        /// The path; absent: `/`.
        path: Option<String> => "path" [] "2018-06-01";
        /// The port, 1 to 65535.
        port: u16 => "port" [required] "2018-06-01";
        /// Absent: `http`.
        scheme: Option<HttpScheme> => "scheme" [] "2018-06-01";
        /// Header fields of the request.
        http_headers: Vec<HttpHeader> => "httpHeaders" [] "2020-11-01";
    }
}

open_enum! {
    /// The scheme of a request.
    HttpScheme {
        /// HTTP, the default.
        Http = "http",
        /// HTTPS; the certificate is not checked.
        Https = "https",
    }
}

object! {
    /// A header field of a request.
    HttpHeader {
        /// The field's name.
        name: Option<String> => "name" [] "2020-11-01";
        /// The field's value.
        value: Option<String> => "value" [] "2020-11-01";
    }
}
