//! Where a group's logs go besides its own log files.

use std::collections::BTreeMap;

use super::macros::{object, open_enum};
use super::secret::Secret;

object! {
    /// Diagnostic information of a group.
    Diagnostics {
        /// A Log Analytics workspace that receives logs and events.
        log_analytics: Option<LogAnalytics> => "logAnalytics" [] "2018-06-01";
    }
}

object! {
    /// A Log Analytics workspace.
    LogAnalytics {
        /// The id of the workspace.
        workspace_id: String => "workspaceId" [required] "2018-06-01";
        /// The workspace's key. A request has to give it; replies leave it out.
        workspace_key: Option<Secret> => "workspaceKey" [] "2018-06-01";
        /// What is sent.
        log_type: Option<LogType> => "logType" [] "2018-09-01";
        /// Fields added to every record.
        metadata: BTreeMap<String, String> => "metadata" [] "2018-09-01";
        /// The resource id of the workspace, which ACI treats as a secret.
        workspace_resource_id: Option<Secret> => "workspaceResourceId" [] "2020-11-01";
    }
}

open_enum! {
    /// What is sent to a workspace.
    LogType {
        /// Records for the container insights.
        ContainerInsights = "ContainerInsights",
        /// The tables `ContainerInstanceLog_CL` and `ContainerEvent_CL`.
        ContainerInstanceLogs = "ContainerInstanceLogs",
    }
}
