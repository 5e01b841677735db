{{- /* Names of settings that mean something for one run, or that have a value of their own elsewhere. */ -}}
{{- define "counterfoil.reservedSettings" -}}
[CF_POD_NAME, CF_INSTALLATION, CF_SCHEMA, CF_CHECKS_FILE, CF_REPLAY_TOKEN, CF_PROBE_TOKEN, CF_PROBE_SEED, CF_PROBE_FILE, CF_MODE,
 CF_EXIT_ON_FINDINGS, CF_GATE_SINCE, CF_FREEZE_ID, CF_STATE, CF_VERIFY_FROM, CF_VERIFY_TO, CF_VERIFY_HASH, CF_VERIFY_FINDINGS,
 CF_REPORT_FILE, CF_EVENT_IDS, CF_LIMIT, CF_REASON, CF_DELIVERIES_TABLE, CF_REPLAY_URL, CF_CORRECTIONS_URL, CF_REPUBLISH_FUNCTION,
 CF_ROLLOUT_NAME, CF_ROLLOUT_NAMESPACE, CF_REPAIR_AFTER_ABORT, CF_LISTEN_ADDRESS]
{{- end -}}

{{- /*
One sentence for each thing that is missing, or that cannot be had together, as a list. All of them come at once: whoever
installs mends them in one go.
*/ -}}
{{- define "counterfoil.problems" -}}
{{- $values := .Values -}}
{{- $jobs := .Values.jobs -}}
{{- if not $values.service.name }}
- "service.name is required: the Kubernetes Service that is guarded"
{{- end }}
{{- if not $values.database.existingSecret }}
- "database.existingSecret is required: the Secret with one connection URL per role"
{{- end }}
{{- if and $jobs.eventReplay.enabled (not $values.service.republishFunction) (not $values.token.existingSecret) }}
- "token.existingSecret is required: the Secret with the token of the service's replay endpoint (or set jobs.eventReplay.enabled to false, and lost events stay lost)"
{{- end }}
{{- if and $jobs.billingReconciliation.enabled $jobs.billingReconciliation.repair (not $jobs.eventReplay.enabled) }}
- "jobs.billingReconciliation.repair asks event-replay, which is off: set it to false, or jobs.eventReplay.enabled to true"
{{- end }}
{{- if and $values.rollout.enabled $values.exporter.repairAfterAbort (not $jobs.eventReplay.enabled) }}
- "exporter.repairAfterAbort asks event-replay, which is off: set it to false, or jobs.eventReplay.enabled to true"
{{- end }}
{{- if and $values.rollout.enabled (not $values.exporter.enabled) }}
- "rollout.enabled needs the exporter, by which each version is judged: set exporter.enabled to true"
{{- end }}
{{- if $values.rollout.enabled }}
{{- include "counterfoil.rolloutProblems" . }}
{{- end }}
{{- include "counterfoil.scrapeProblems" . }}
{{- if and $jobs.backupRetention.enabled (not $jobs.backupRetention.days) }}
- "jobs.backupRetention.days is required: how long events are kept is a decision of whoever owns them"
{{- end }}
{{- range $value := list "schema" "billingReconciliation" "eventReplay" "flowProbe" "backupRetention" }}
{{- include "counterfoil.settingProblems" (dict "root" $ "component" (kebabcase $value) "name" (printf "jobs.%s.settings" $value) "settings" (get $jobs $value).settings) }}
{{- end }}
{{- include "counterfoil.settingProblems" (dict "root" $ "component" "exporter" "name" "exporter.settings" "settings" $values.exporter.settings) }}
{{- include "counterfoil.settingProblems" (dict "root" $ "component" "runtime" "name" "settings" "settings" $values.settings) }}
{{- range $values.extraEnv }}
{{- if not .name }}
- "an entry of extraEnv has no name"
{{- else if or (hasPrefix "CF_" .name) (eq .name "DATABASE_URL") }}
- {{ printf "extraEnv holds %s, which is a setting: name it under settings, or those of its job" .name | quote }}
{{- end }}
{{- end }}
{{- range $name := list "eventLossRatio" "billingErrorRatio" }}
{{- if contains "." (include "counterfoil.perMille" (get $values.thresholds $name)) }}
- {{ printf "thresholds.%s is finer than a thousandth, which the gate cannot judge" $name | quote }}
{{- end }}
{{- end }}
{{- range $name, $overrides := dict
  "billingReconciliation.tail" $jobs.billingReconciliation.tail.overrides
  "billingReconciliation.incremental" $jobs.billingReconciliation.incremental.overrides
  "billingReconciliation.full" $jobs.billingReconciliation.full.overrides
  "eventReplay" $jobs.eventReplay.overrides
  "flowProbe" $jobs.flowProbe.overrides
  "backupRetention" $jobs.backupRetention.overrides }}
{{- range $key, $value := $overrides }}
{{- if not (has $key (list "timeZone" "suspend" "startingDeadlineSeconds" "successfulJobsHistoryLimit" "failedJobsHistoryLimit" "backoffLimit" "ttlSecondsAfterFinished" "resources")) }}
- {{ printf "jobs.%s.overrides holds %s, which jobs.defaults does not have" $name $key | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Settings that the chart fills in from values of their own. Takes a dict: root, component, name, settings. */ -}}
{{- define "counterfoil.settingProblems" -}}
{{- $owned := include (printf "counterfoil.settings.%s" .component) .root | fromYaml -}}
{{- $reserved := include "counterfoil.reservedSettings" .root | fromYamlArray -}}
{{- range $setting, $value := .settings }}
{{- if or (hasKey $owned $setting) (has $setting $reserved) }}
- {{ printf "%s holds %s, which the chart fills in from a value of its own" $.name $setting | quote }}
{{- else if not (hasPrefix "CF_" $setting) }}
- {{ printf "%s holds %s, which is no setting: they begin with CF_; other variables stand in extraEnv" $.name $setting | quote }}
{{- end }}
{{- end }}
{{- end -}}
