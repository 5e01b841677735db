{{- define "counterfoil.rolloutName" -}}
{{- .Values.rollout.name | default .Values.service.name -}}
{{- end -}}

{{- /* The Service of the stable version. Without a router the controller would take the canary's pods out of one. */ -}}
{{- define "counterfoil.stableService" -}}
{{- if eq .Values.rollout.router.type "none" -}}
{{- .Values.service.name -}}
{{- else -}}
{{- printf "%s-stable" (include "counterfoil.rolloutName" .) -}}
{{- end -}}
{{- end -}}

{{- /* A duration as Prometheus and Argo write it, such as 90m or 1h30m, in seconds. */ -}}
{{- define "counterfoil.durationSeconds" -}}
{{- $units := dict "ms" 0 "s" 1 "m" 60 "h" 3600 "d" 86400 "w" 604800 -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+(ms|[smhdw])" (toString .) -1 -}}
  {{- $seconds = add $seconds (mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- /* The modes of the conditions, as a dict; complaints without a source are ignored, and metrics that nobody is known to scrape. */ -}}
{{- define "counterfoil.conditionModes" -}}
{{- range $name, $condition := .Values.rollout.conditions }}
{{- if or (ne $name "verdict") $.Values.service.versions }}
{{ $name }}: {{ $condition.mode | default (empty $.Values.complaints.query | ternary "ignore" "abort") | quote }}
{{- end }}
{{- end }}
service-metrics: {{ or $.Values.metrics.service.enabled $.Values.metrics.service.elsewhere | ternary $.Values.rollout.conditions.telemetry.mode "ignore" | quote }}
{{- end -}}

{{- /*
The gates of one step, as a list. Where no event says which version published it there is no sample of one.
Takes a dict: root, step.
*/ -}}
{{- define "counterfoil.stepGates" -}}
{{- $gates := .step.gates | default list -}}
{{- if not .root.Values.service.versions -}}{{- $gates = without $gates "sample" -}}{{- end -}}
{{- toYaml $gates -}}
{{- end -}}

{{- /* All gates of this release, as a list. */ -}}
{{- define "counterfoil.gates" -}}
{{- $gates := list -}}
{{- range $step := .Values.rollout.steps -}}
  {{- $gates = concat $gates (include "counterfoil.stepGates" (dict "root" $ "step" $step) | fromYamlArray) -}}
{{- end -}}
{{- $gates | uniq | sortAlpha | toYaml -}}
{{- end -}}

{{- /* The components that run as Jobs of a gate, as a list. */ -}}
{{- define "counterfoil.gateComponents" -}}
{{- $components := list -}}
{{- $gates := include "counterfoil.gates" . | fromYamlArray -}}
{{- if has "probe" $gates -}}{{- $components = append $components "flow-probe" -}}{{- end -}}
{{- if has "reconciliation" $gates -}}{{- $components = append $components "billing-reconciliation" -}}{{- end -}}
{{- toYaml $components -}}
{{- end -}}

{{- /*
Metadata of what the service could not live without: Helm leaves it behind when the release goes.
Takes a dict: root, name.
*/ -}}
{{- define "counterfoil.rolloutMetadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "counterfoil.labels" (dict "root" .root) | nindent 2 }}
annotations:
  helm.sh/resource-policy: keep
{{- end -}}

{{- /*
The arguments of an analysis, as a list: versions are known to the Rollout alone. The published hash is what event_backups
says; where it says none, the alerts judge the whole service as `unknown`.
*/ -}}
{{- define "counterfoil.analysisArgs" -}}
- name: canary-hash
  valueFrom:
    podTemplateHashValue: Latest
- name: published-hash
{{- if .Values.service.versions }}
  valueFrom:
    podTemplateHashValue: Latest
{{- else }}
  value: unknown
{{- end }}
{{- end -}}

{{- /* An analysis of templates by name. Takes a dict: root, names, observed (names of metrics), args (further ones). */ -}}
{{- define "counterfoil.analysis" -}}
templates:
  {{- range .names }}
  - templateName: {{ include "counterfoil.installation" $.root }}-{{ . }}
  {{- end }}
args:
  {{- include "counterfoil.analysisArgs" .root | nindent 2 }}
  {{- range .args }}
  - {{ toJson . }}
  {{- end }}
{{- with .observed }}
dryRun:
  {{- range . }}
  - metricName: ^{{ . }}$
  {{- end }}
{{- end }}
{{- end -}}

{{- /* The steps, as a list: a weight, its time, its gates and the conditions that hold. */ -}}
{{- define "counterfoil.rolloutSteps" -}}
{{- $modes := include "counterfoil.conditionModes" . | fromYaml -}}
{{- $holding := list -}}
{{- range $name, $mode := $modes -}}
  {{- if eq $mode "hold" -}}{{- $holding = append $holding (printf "%s-hold" $name) -}}{{- end -}}
{{- end -}}
{{- $gates := .Values.rollout.gates -}}
{{- $hold := include "counterfoil.durationSeconds" ($gates.reconciliation.hold | default $gates.hold) | int64 -}}
{{- range $step := .Values.rollout.steps }}
- setWeight: {{ int $step.weight }}
- pause:
    duration: {{ $step.pause }}
{{- with include "counterfoil.stepGates" (dict "root" $ "step" $step) | fromYamlArray }}
{{- /* As long as it may be held: what is open must not be forgotten before that ends. */ -}}
{{- $since := add $hold (include "counterfoil.durationSeconds" $step.pause | int64) }}
{{- $observed := list }}
{{- range . }}{{- if has . $gates.observe }}{{- $observed = append $observed . }}{{- end }}{{- end }}
- analysis:
    {{- include "counterfoil.analysis" (dict "root" $ "names" . "observed" $observed "args" (list (dict "name" "since" "value" (printf "%dm" (divf $since 60 | ceil | int64))))) | nindent 4 }}
{{- end }}
{{- /* Last, when the gates are good: whatever they have waited for, these are looked at after it. */ -}}
{{- with $holding }}
- analysis:
    {{- include "counterfoil.analysis" (dict "root" $ "names" .) | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The patch of a router from rollouts/routers, with this release in it. */ -}}
{{- define "counterfoil.trafficRouting" -}}
{{- $router := .Values.rollout.router -}}
{{- $name := $router.name | default (include "counterfoil.rolloutName" .) -}}
{{- $patch := .Files.Get (printf "files/rollouts/routers/%s.patch.yaml" (kebabcase $router.type)) | fromYaml -}}
{{- $routing := $patch.spec.strategy.canary.trafficRouting -}}
{{- if ne $router.type "traefik" }}{{- $_ := unset $routing "traefik" -}}{{- end -}}
{{- if eq $router.type "traefik" -}}
  {{- $_ := set $routing.traefik "weightedTraefikServiceName" $name -}}
  {{- $_ := set $routing "traefik" (mergeOverwrite $routing.traefik $router.settings) -}}
{{- else if eq $router.type "nginx" -}}
  {{- $_ := set $routing.nginx "stableIngress" $name -}}
  {{- $_ := set $routing "nginx" (mergeOverwrite $routing.nginx $router.settings) -}}
{{- else if eq $router.type "istio" -}}
  {{- $_ := set $routing.istio.virtualService "name" $name -}}
  {{- $_ := set $routing "istio" (mergeOverwrite $routing.istio $router.settings) -}}
{{- else if eq $router.type "alb" -}}
  {{- $_ := set $routing.alb "ingress" $name -}}
  {{- $_ := set $routing.alb "rootService" (printf "%s-root" (include "counterfoil.rolloutName" .)) -}}
  {{- $_ := set $routing.alb "servicePort" (int .Values.service.port) -}}
  {{- $_ := set $routing "alb" (mergeOverwrite $routing.alb $router.settings) -}}
{{- else if eq $router.type "gatewayAPI" -}}
  {{- $plugin := dict "httpRoute" $name "namespace" .Release.Namespace -}}
  {{- $_ := set $routing.plugins "argoproj-labs/gatewayAPI" (mergeOverwrite $plugin $router.settings) -}}
{{- end -}}
{{- toYaml $routing -}}
{{- end -}}

{{- /* How many looks fit into a time, at least one. Takes a dict: time, interval. */ -}}
{{- define "counterfoil.looks" -}}
{{- max 1 (divf (include "counterfoil.durationSeconds" .time) (include "counterfoil.durationSeconds" .interval) | ceil | int) -}}
{{- end -}}

{{- /* A metric that waits for good readings and fails when its time is over; never inconclusive. Takes a dict: root, metric, hold, interval, good. */ -}}
{{- define "counterfoil.holdMetric" -}}
{{- $_ := set .metric "interval" .interval -}}
{{- $_ := set .metric "count" (include "counterfoil.looks" (dict "time" .hold "interval" .interval) | int) -}}
{{- $_ := set .metric "failureLimit" -1 -}}
{{- $_ := set .metric "consecutiveSuccessLimit" (int .good) -}}
{{- $_ := unset .metric "initialDelay" -}}
{{- toYaml .metric -}}
{{- end -}}

{{- /* The Prometheus that a metric asks, changed in place. Takes a dict: root, provider. */ -}}
{{- define "counterfoil.prometheusProvider" -}}
{{- $given := .root.Values.rollout.prometheus -}}
{{- $_ := set .provider "address" .root.Values.metrics.prometheusUrl -}}
{{- $query := include "counterfoil.ofThisRelease" (dict "root" .root "text" .provider.query) -}}
{{- /* Longer than Prometheus may be away, so that a hole is known for one; and as the events of this service are. */ -}}
{{- $query = $query | replace "[10m]" (printf "[%dm]" (max 10 (divf (add $given.unreachableSeconds 240) 60 | ceil | int))) -}}
{{- if not .root.Values.service.versions -}}{{- $query = regexReplaceAll "(counterfoil_hot_versions_measured.*) == 1" $query "${1} == 0" -}}{{- end -}}
{{- $_ := set .provider "query" $query -}}
{{- $_ := set .provider "timeout" (int $given.timeoutSeconds) -}}
{{- if $given.insecure }}{{- $_ := set .provider "insecure" true -}}{{- end -}}
{{- $headers := list -}}
{{- range $name, $value := $given.headers -}}{{- $headers = append $headers (dict "key" $name "value" $value) -}}{{- end -}}
{{- if $given.token.existingSecret -}}
  {{- $headers = append $headers (dict "key" "Authorization" "value" "Bearer {{args.prometheus-token}}") -}}
{{- end -}}
{{- with $headers }}{{- $_ := set $.provider "headers" . -}}{{- end -}}
{{- with $given.authentication }}{{- $_ := set $.provider "authentication" . -}}{{- end -}}
{{- end -}}

{{- /* The Job of a gate, as the CronJob of that job has it. Takes a dict: root, name. */ -}}
{{- define "counterfoil.gateJob" -}}
{{- $root := .root -}}
{{- $values := get $root.Values.rollout.gates .name -}}
{{- $options := dict "backoffLimit" ($values.backoffLimit | default 0) "ttlSecondsAfterFinished" nil -}}
{{- if eq .name "probe" -}}
{{- $job := $root.Values.jobs.flowProbe -}}
{{- $resources := (include "counterfoil.jobOptions" (dict "root" $root "overrides" $job.overrides) | fromYaml).resources -}}
{{- include "counterfoil.jobSpec" (dict
  "root" $root
  "component" "flow-probe"
  "job" "flow-probe"
  "role" "jobs"
  "settings" (dict "CF_EXIT_ON_FINDINGS" "true" "CF_PROBE_URL" (include "counterfoil.serviceUrl" (dict "root" $root "service" (printf "%s-canary" (include "counterfoil.rolloutName" $root)))))
  "further" $job.settings
  "secrets" (concat (include "counterfoil.probeSeed" $root | fromYamlArray) (include "counterfoil.probeToken" $root | fromYamlArray))
  "files" (list "checks" "flow")
  "options" (set $options "resources" $resources)
  "activeDeadlineSeconds" $values.activeDeadlineSeconds
) -}}
{{- else -}}
{{- $job := $root.Values.jobs.billingReconciliation -}}
{{- include "counterfoil.jobSpec" (dict
  "root" $root
  "component" "billing-reconciliation"
  "job" "billing-reconciliation"
  "role" "jobs"
  "settings" (dict "CF_MODE" "tail" "CF_EXIT_ON_FINDINGS" "true" "CF_GATE_SINCE" "{{args.since}}" "CF_REPAIR" "" "CF_REPAIR_LIMIT" "")
  "further" $job.settings
  "files" (list "checks")
  "options" (set $options "resources" $root.Values.jobs.defaults.resources)
  "activeDeadlineSeconds" $values.activeDeadlineSeconds
) -}}
{{- end -}}
{{- end -}}

{{- /* How long the slowest condition takes to see a fault that begins with the last weight, in seconds. */ -}}
{{- define "counterfoil.longestGuard" -}}
{{- $for := "5m" -}}
{{- range list "CounterfoilVersionLosesEvents" "CounterfoilVersionLosesEvents/warning" -}}
  {{- with (get $.Values.prometheusRule.overrides . | default dict).for }}{{- $for = . -}}{{- end -}}
{{- end -}}
{{- $delay := get .Values.exporter.settings "CF_LOSS_DELAY_SECONDS" | default 60 | int64 -}}
{{- $collection := get .Values.exporter.settings "CF_HOT_CHECK_INTERVAL_SECONDS" | default 15 | int64 -}}
{{- $scrape := include "counterfoil.durationSeconds" .Values.metrics.podMonitor.interval | int64 -}}
{{- $rule := 15 -}}
{{- add $delay $collection $scrape $rule (include "counterfoil.durationSeconds" $for) (include "counterfoil.durationSeconds" .Values.rollout.conditions.loss.interval) -}}
{{- end -}}

{{- /* Whether prometheusRule.disabled leaves out a rule. Takes a dict: root, alert, severity. */ -}}
{{- define "counterfoil.alertDisabled" -}}
{{- $disabled := .root.Values.prometheusRule.disabled -}}
{{- $one := printf "%s/%s" .alert .severity -}}
{{- if hasKey $disabled $one | ternary (get $disabled $one) (get $disabled .alert) -}}true{{- end -}}
{{- end -}}

{{- /* One sentence for each thing about the canary that is missing or cannot be had together, as a list. */ -}}
{{- define "counterfoil.rolloutProblems" -}}
{{- with .Values.rollout }}
{{- if gt (include "counterfoil.rolloutName" $ | len) 54 }}
- "rollout.name: the name of the service is too long for Services that end in -stable and -canary; set one of at most 54 characters"
{{- end }}
{{- if and .deployment .template }}
- "rollout.deployment and rollout.template: the Rollout adopts a Deployment or owns a template; choose one"
{{- else if not (or .deployment .template) }}
- "rollout.enabled needs rollout.deployment (the Deployment that it adopts) or rollout.template (the pods that it owns)"
{{- end }}
{{- if and .template (not .selector.matchLabels) }}
- "rollout.selector.matchLabels is required with rollout.template: by it the Rollout knows its pods"
{{- end }}
{{- range $label, $value := .selector.matchLabels }}
{{- if ne (toString $value) (dig "metadata" "labels" $label "" $.Values.rollout.template | toString) }}
- {{ printf "rollout.selector.matchLabels has %s, which the labels of rollout.template do not have" $label | quote }}
{{- end }}
{{- end }}
{{- $replicas := int (.replicas | default 0) }}
{{- if lt $replicas 1 }}
- "rollout.replicas is required: the number of pods of the stable version, or the least where it is scaled"
{{- end }}

{{- $before := 0 }}
{{- $last := dict }}
{{- range $index, $step := .steps }}
{{- $place := printf "rollout.steps[%d]" $index }}
{{- range $field, $_ := $step }}
{{- if not (has $field (list "weight" "pause" "gates")) }}
- {{ printf "%s has %s: a step has weight, pause and gates" $place $field | quote }}
{{- end }}
{{- end }}
{{- if not (regexMatch "^[1-9][0-9]*[smh]$" (toString $step.pause)) }}
- {{ printf "%s.pause is no duration such as 2h" $place | quote }}
{{- end }}
{{- $weight := int ($step.weight | default 0) }}
{{- if or (le $weight $before) (gt $weight 100) }}
- {{ printf "%s.weight must be above the one before it, and at most 100" $place | quote }}
{{- end }}
{{- range $step.gates }}
{{- if not (has . (list "sample" "errors" "latency" "probe" "reconciliation")) }}
- {{ printf "%s.gates has %s: there are sample, errors, latency, probe and reconciliation" $place . | quote }}
{{- end }}
{{- end }}
{{- if and (eq $index 0) (eq $.Values.rollout.router.type "none") (ge $replicas 1) (lt (mul $weight $replicas) 100) }}
- {{ printf "rollout.router.type is none: with %d pods the smallest canary gets 1/%d of the traffic, never %d %%; choose a router, raise rollout.replicas to %d, or begin with a larger weight" $replicas (add $replicas 1) $weight (divf 100 (max 1 $weight) | ceil | int) | quote }}
{{- end }}
{{- $before = $weight }}
{{- $last = $step }}
{{- end }}
{{- if ne $before 100 }}
- "the last of rollout.steps must have weight 100: what is not judged at 100 % is never judged there"
{{- end }}
{{- $guard := include "counterfoil.longestGuard" $ | int64 }}
{{- if lt (include "counterfoil.durationSeconds" $last.pause | int64) $guard }}
- {{ printf "the last of rollout.steps must last %d s at least: so long it takes until lost events are seen, and after the last step nothing is judged" $guard | quote }}
{{- end }}

{{- range $name, $alert := dict "loss" "CounterfoilVersionLosesEvents/warning" "billing" "CounterfoilVersionBillsWrong/warning" "crashes" "CounterfoilVersionCrashes/warning" "complaints" "CounterfoilComplaints/critical" }}
{{- $parts := splitList "/" $alert }}
{{- if and (ne (get (include "counterfoil.conditionModes" $ | fromYaml) $name) "ignore") (include "counterfoil.alertDisabled" (dict "root" $ "alert" (first $parts) "severity" (last $parts))) }}
- {{ printf "prometheusRule.disabled leaves out %s, by which rollout.conditions.%s judges: set its mode to ignore" (first $parts) $name | quote }}
{{- end }}
{{- end }}
{{- if and .conditions.complaints.mode (ne .conditions.complaints.mode "ignore") (not $.Values.complaints.query) }}
- "rollout.conditions.complaints.mode needs complaints.query: without it nobody knows of complaints"
{{- end }}

{{- range $name := list "sample" "errors" "latency" "reconciliation" }}
{{- $gates := $.Values.rollout.gates }}
{{- $gate := get $gates $name }}
{{- $hold := $gate.hold | default $gates.hold }}
{{- $interval := $gate.interval | default $gates.interval }}
{{- if lt (include "counterfoil.durationSeconds" $hold | int64) (include "counterfoil.durationSeconds" $interval | int64) }}
- {{ printf "the gate %s is held for %s and looked at every %s: there would be no second look" $name $hold $interval | quote }}
{{- else if and (ne $name "reconciliation") (lt (include "counterfoil.looks" (dict "time" $hold "interval" $interval) | int) (int $gates.goodReadings)) }}
- {{ printf "the gate %s is held for %s, into which %d good readings do not fit: it could never open" $name $hold (int $gates.goodReadings) | quote }}
{{- end }}
{{- end }}
{{- if eq .gates.quiet "probe" }}
{{- range $index, $step := .steps }}
{{- $gates := include "counterfoil.stepGates" (dict "root" $ "step" $step) | fromYamlArray }}
{{- if and (or (has "sample" $gates) (has "errors" $gates) (has "latency" $gates)) (or (not (has "probe" $gates)) (has "probe" $.Values.rollout.gates.observe)) }}
- {{ printf "rollout.gates.quiet is probe, and no probe decides at rollout.steps[%d]: add it to its gates" $index | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- range .gates.observe }}
{{- if not (has . (include "counterfoil.gates" $ | fromYamlArray)) }}
- {{ printf "rollout.gates.observe has %s, which is no gate of any step" . | quote }}
{{- end }}
{{- end }}
{{- if and .router.create (has .router.type (list "nginx" "istio" "alb" "gatewayAPI")) (not .router.host) }}
- "rollout.router.create needs rollout.router.host: the host for which the router's object is made"
{{- end }}
{{- if and .router.create (eq .router.type "gatewayAPI") (not .router.gateway) }}
- "rollout.router.create needs rollout.router.gateway: the Gateway for which the route is made"
{{- end }}
{{- if and .router.create (eq .router.type "none") }}
- "rollout.router.create with rollout.router.type none: there is no object to make"
{{- end }}
{{- end }}
{{- end -}}

{{- /* What the exporter's gate must say where a quiet canary may go on: enough seen and all good, or nothing bad at all. */ -}}
{{- define "counterfoil.nothingBad" -}}
result.verdict == "pass" || (result.verdict == "not_enough_data" && len(result.notMeasured) == 0 && result.events.lost == 0 && all(result.billing, .findings.suspected + .findings.open + .discrepancies.missing + .discrepancies.duplicate + (.discrepancies.amount ?? 0) == 0))
{{- end -}}
