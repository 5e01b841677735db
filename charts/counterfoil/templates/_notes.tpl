{{- /* One row of the table. Takes a list: what, whether, how or why (and the value that changes it). */ -}}
{{- define "counterfoil.noteRow" -}}
{{- printf "  %-34s %-4s %s" (index . 0) (index . 1 | ternary "yes" "NO") (index . 2) -}}
{{- end -}}

{{- /*
How many events an hour the whole service needs, so that the first gate `sample` sees enough of its canary before its time
is over; nothing where there is no such gate.
*/ -}}
{{- define "counterfoil.neededTraffic" -}}
{{- $gates := .Values.rollout.gates -}}
{{- $hold := include "counterfoil.durationSeconds" ($gates.sample.hold | default $gates.hold) | int64 -}}
{{- $seconds := 0 -}}
{{- $done := false -}}
{{- range $step := .Values.rollout.steps -}}
  {{- if not $done -}}
    {{- $seconds = add $seconds (include "counterfoil.durationSeconds" $step.pause | int64) -}}
    {{- if has "sample" (include "counterfoil.stepGates" (dict "root" $ "step" $step) | fromYamlArray) -}}
      {{- $done = true -}}
      {{- divf (mulf $gates.sample.judged 100 3600) (mulf $step.weight (add $seconds $hold)) | ceil | int64 -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- /* What a canary of these values finds, as docs/benchmarks.md has it; nothing where it was not measured. */ -}}
{{- define "counterfoil.canaryFigures" -}}
With the chart's own steps and thresholds, of 324 good releases none was rolled back. One that loses 2 % of its events is
  rolled back at 1 %: after 68 min where the service publishes 10 events a second, 7 min at 100, 2 min at 1,000. One that loses
  0.1 % mostly goes through. With other traffic, weights or faults: docs/canary-figures.md.
{{- end -}}

{{- /* One sentence for each thing that is off, or that nobody sees, as a list. */ -}}
{{- define "counterfoil.gaps" -}}
{{- $values := .Values -}}
{{- $jobs := .Values.jobs -}}
{{- if not $jobs.eventReplay.enabled }}
- "Lost events stay lost: jobs.eventReplay.enabled is false."
{{- else if and (not $values.service.correctionsPath) (not $values.service.republishFunction) }}
- "Approved corrections are refused, for a person to carry out: service.correctionsPath is empty."
{{- end }}
{{- if $values.service.republishFunction }}
- "Events go to the outbox of a predecessor: nothing is rebuilt or corrected while service.republishFunction is set."
{{- end }}
{{- if not $jobs.billingReconciliation.enabled }}
- "Nobody compares facts with bills: jobs.billingReconciliation.enabled is false."
{{- else }}
{{- if not $jobs.billingReconciliation.repair }}
- "Missing bills are found and not mended: jobs.billingReconciliation.repair is false."
{{- end }}
{{- range $mode := list "tail" "incremental" "full" }}
{{- if not (get $jobs.billingReconciliation $mode).enabled }}
- {{ printf "Reconciliation has no mode %s: jobs.billingReconciliation.%s.enabled is false." $mode $mode | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $overrides := dict
  "jobs.eventReplay" $jobs.eventReplay.overrides
  "jobs.billingReconciliation.tail" $jobs.billingReconciliation.tail.overrides
  "jobs.billingReconciliation.incremental" $jobs.billingReconciliation.incremental.overrides
  "jobs.billingReconciliation.full" $jobs.billingReconciliation.full.overrides
  "jobs.flowProbe" $jobs.flowProbe.overrides
  "jobs.backupRetention" $jobs.backupRetention.overrides }}
{{- if (include "counterfoil.jobOptions" (dict "root" $ "overrides" $overrides) | fromYaml).suspend }}
- {{ printf "%s stands still: it is suspended." $name | quote }}
{{- end }}
{{- end }}
{{- if eq $jobs.schema.mode "none" }}
- "Nobody migrates the state schema: jobs.schema.mode is none. Run jobs/schema before each version."
{{- end }}
{{- if and $jobs.backupRetention.enabled $jobs.backupRetention.dryRun }}
- "Old events are named and not deleted: jobs.backupRetention.dryRun is true."
{{- end }}
{{- if not $values.exporter.enabled }}
- "There are no metrics, no alerts, no dashboards and no canary: exporter.enabled is false."
{{- else }}
{{- if not (or $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled) }}
- "No monitor asks for the exporter to be scraped: metrics.podMonitor.enabled is false. Alerts are silent unless something else scrapes it."
{{- end }}
{{- if not $values.prometheusRule.enabled }}
- "Nobody is told: prometheusRule.enabled is false."
{{- else }}
{{- if $values.prometheusRule.shared }}
- "The alerts are those of another release in this namespace (prometheusRule.shared): without it there are none."
{{- end }}
{{- range $name, $off := $values.prometheusRule.disabled }}
{{- if $off }}
- {{ printf "The alert %s is left out (prometheusRule.disabled)." $name | quote }}
{{- end }}
{{- end }}
{{- if hasPrefix "https://counterfoil.example" $values.prometheusRule.runbookBaseUrl }}
- "Alerts lead to runbooks that are not there: set prometheusRule.runbookBaseUrl."
{{- end }}
{{- if hasPrefix "https://grafana.example/" $values.prometheusRule.dashboardBaseUrl }}
- "Alerts lead to dashboards that are not there: set prometheusRule.dashboardBaseUrl."
{{- end }}
{{- if not $values.alertmanagerConfig.enabled }}
- "One incident may page several times: alertmanagerConfig.enabled is false (alerts/README.md)."
{{- end }}
{{- if not $values.complaints.query }}
- "Nobody counts complaints: complaints.query is empty."
{{- end }}
{{- end }}
{{- if not (or $values.metrics.service.enabled $values.metrics.service.elsewhere) }}
- "Nobody is known to scrape the service itself, which its alerts need: metrics.service.enabled and metrics.service.elsewhere are false."
{{- end }}
{{- end }}
{{- if not $values.service.versions }}
- "Losses and wrong bills are nobody's version: service.versions is false, so that a canary answers for the whole service."
{{- end }}
{{- if and $values.rollout.enabled $values.service.versions $jobs.eventReplay.enabled }}
{{- range $check := $values.checks | default (list (dict "name" "session-billing" "event" dict)) }}
{{- if and (hasKey $check "event") (not (dig "event" "match" dict $check)) }}
- {{ printf "What an aborted version leaves waits for a person: the check %s says nowhere what of an event must still agree with its fact (event.match)." $check.name | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $values.rollout.enabled }}
- "A bad release reaches all customers: rollout.enabled is false."
{{- else }}
{{- range $name, $mode := include "counterfoil.conditionModes" . | fromYaml }}
{{- if and (ne $mode "abort") (or (ne $name "complaints") $values.complaints.query) }}
- {{ printf "No release is rolled back at once for %s: rollout.conditions.%s.mode is %s." $name $name $mode | quote }}
{{- end }}
{{- end }}
{{- range $values.rollout.gates.observe }}
- {{ printf "The gate %s only shows its verdict (rollout.gates.observe)." . | quote }}
{{- end }}
{{- if not (and $values.prometheusRule.enabled (or $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled)) }}
- "Unless something else loads the rules and scrapes the exporter, every release is rolled back by rollout.conditions.telemetry."
{{- end }}
{{- if and $values.complaints.query (not $values.prometheusRule.enabled) }}
- "Nobody records complaints, whatever complaints.query is: prometheusRule.enabled is false, and a canary passes them."
{{- end }}
{{- if lt (int $values.exporter.replicas) 2 }}
- "A lost node takes the exporter along, and a good release is rolled back when it is away for some minutes: set exporter.replicas to 2."
{{- end }}
{{- if eq $values.rollout.router.type "none" }}
- "The weight of a canary is its share of the pods, not of the traffic: rollout.router.type is none."
{{- end }}
{{- end }}
{{- if not $values.networkPolicy.enabled }}
- "The pods may reach anything: networkPolicy.enabled is false."
{{- end }}
{{- end -}}
